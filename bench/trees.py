"""The same jobs by two trees, in turn on one machine: whether a change made them slower.

    git worktree add ../before COMMIT
    python bench/trees.py --before ../before

Both run in this program's Python; only the package is each tree's own. Texts are docstrings through
all-MiniLM-L6-v2, images photographs through a seeded model of ViT-S's shape.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from images import write_model, write_photographs
from record import spread, write_record
from write_texts import numbered_docstrings, write_texts

from embed_ops.demo import minilm

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("rows_per_second", "whole_seconds")


def jobs(folder: Path, texts: int, images: int) -> dict[str, list[str]]:
    """Write what is embedded; gives the words of each job."""
    model = write_model("vit-small", folder)
    return {
        "texts": [
            f"source.path={write_texts(folder / 'texts', numbered_docstrings(texts), 4)}",
            "source.column=text",
            f"encoder.model={minilm()}",
        ],
        "images": [
            "source.kind=images",
            f"source.path={write_photographs(folder, images)}",
            "encoder.family=image",
            f"encoder.model={model}",
        ],
    }


def measure(tree: Path, words: list[str], run: Path) -> dict[str, float]:
    """Run a job by a tree's package: its rate, and the seconds of the whole command."""
    line = [sys.executable, "-m", "embed_ops", "embed", *words, f"sink.path={run}", "--progress", "none"]
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run(line, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    report = json.loads((run / "report.json").read_text())
    shutil.rmtree(run)
    return dict(zip(FIGURES, (report["rows_per_second"], whole), strict=True))


def main() -> None:
    """Run the jobs by both trees, write a record, and print the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the other tree")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--texts", type=int, default=8_000)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("words", nargs="*", help="section.key=value for all jobs")
    options = parser.parse_args()
    trees = {"before": options.before.resolve(), "after": ROOT}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for job, words in jobs(folder, options.texts, options.images).items():
            found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
            for _ in range(options.runs):
                for name, tree in trees.items():
                    found[name].append(measure(tree, [*words, *options.words], folder / "run"))
            figures[job] = {
                figure: {name: spread([run[figure] for run in found[name]]) for name in trees}
                for figure in FIGURES
            }
            for figure, sides in figures[job].items():
                sides["ratio"] = sides["after"]["median"] / sides["before"]["median"]
                print(f"{job}, {figure}: {sides['before']['median']:.1f} -> {sides['after']['median']:.1f}")
    line = ["git", "-C", str(trees["before"]), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(line, capture_output=True, text=True, check=True)
    settings = {name: value for name, value in vars(options).items() if name != "before"}
    write_record("trees", settings | {"before": commit.stdout.strip()}, figures)


if __name__ == "__main__":
    main()

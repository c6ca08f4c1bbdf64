"""How soon small work is done.

commands  whole commands over ten and a thousand rows, beside the program that a user would write
border    the local engine beside Ray on this machine, from ten rows to many: where they are equal
encoder   `Encoder.embed` beside sentence-transformers' `encode`
ray-data  `Encoder` as a stage of Ray Data, beside our job on Ray
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from record import spread, write_record
from write_texts import numbered_docstrings, write_texts

from embed_ops.demo import minilm

HERE = Path(__file__).parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def timed(line: list[str], run: Path | None = None) -> dict[str, float]:
    """Run a command: its seconds, and those of its run from the first unit in to the last out."""
    began = time.perf_counter()
    subprocess.run(line, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    figures = {"whole": time.perf_counter() - began}
    if run is not None:
        report = json.loads((run / "report.json").read_text())
        figures |= {"rows/s": report["rows_per_second"]}
    return figures


def embedding(files: Path, run: Path, *words: str) -> dict[str, float]:
    """Embed files to a new run by our command."""
    shutil.rmtree(run, ignore_errors=True)
    line = [sys.executable, "-m", "embed_ops", "embed", f"source.path={files}", "source.column=text"]
    return timed([*line, f"encoder.model={minilm()}", f"sink.path={run}", *words], run)


def in_turn(sides: dict[str, Callable[[], dict[str, float]]], repeats: int) -> dict[str, Any]:
    """Run all sides in turn; gives the spread of each of their figures."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(side())
    return {
        name: {figure: spread([run[figure] for run in of_side]) for figure in of_side[0]}
        for name, of_side in runs.items()
    }


def commands(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run whole commands beside the plain program, and verbs over a thousand rows."""
    figures: dict[str, Any] = {}
    for rows in (10, 1_000):
        files, run = corpus(folder, "docstrings", rows), folder / "run"
        plain = [sys.executable, str(HERE / "plain.py"), str(files), minilm(), str(folder / "plain.npy")]
        sides = {
            "plain": partial(timed, plain),
            "parity off": partial(embedding, files, run, "parity.rows=0"),
            "parity on": partial(embedding, files, run),
            "through Ray, parity off": partial(
                embedding, files, run, "parity.rows=0", "resources.engine=ray"
            ),
        }
        found = in_turn(sides, options.repeats)
        base = found["plain"]["whole"]["median"]
        found["times plain"] = {name: found[name]["whole"]["median"] / base for name in sides}
        figures[f"{rows} rows"] = found
    here = [sys.executable, "-m", "embed_ops"]
    again = run / "stages"
    verbs: dict[str, list[str]] = {
        "import pyarrow": [sys.executable, "-c", "import pyarrow.dataset, pyarrow.parquet"],
        "import torch and transformers": [sys.executable, "-c", "import torch, transformers"],
        "--help": [*here, "--help"],
        "verify": [*here, "verify", str(run)],
        "plan --list": [*here, "plan", "--list", f"source.path={files}", "source.column=text"],
        "postprocess": [*here, "postprocess", str(run), "kind=kmeans", "k=10"],
        "neighbors": [*here, "neighbors", str(run), "--text", "open a file"],
        "report": [*here, "report", str(run)],
    }
    verbs["plan --list"] += [f"encoder.model={minilm()}", f"sink.path={folder / 'none'}"]

    def verb(line: list[str]) -> dict[str, float]:
        shutil.rmtree(again, ignore_errors=True)
        return timed(line)

    figures["verbs"] = in_turn({name: partial(verb, line) for name, line in verbs.items()}, options.repeats)
    return figures


def border(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Embed one-liners on both engines, with one worker and with one for each core."""
    figures: dict[str, Any] = {}
    for rows in options.rows:
        files = corpus(folder, "oneliners", rows)
        sides = {
            f"{engine}, {name}": partial(
                embedding,
                files,
                folder / "run",
                "parity.rows=0",
                "encoder.dtype=bfloat16",
                f"resources.engine={engine}",
                *words,
            )
            for engine in ("local", "ray")
            for name, words in (("one worker", ["resources.replicas=1"]), ("a worker each core", []))
        }
        figures[f"{rows} rows"] = in_turn(sides, 1 if rows > 10_000 else options.repeats)
        print(f"{rows} rows: {figures[f'{rows} rows']}", flush=True)
    return figures


def encoder(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Embed the same texts in memory by both libraries in turn, and through Ray Data."""
    import numpy as np
    import pyarrow.dataset as pads
    from sentence_transformers import SentenceTransformer

    from embed_ops import Encoder

    figures: dict[str, Any] = {}
    ours, theirs = Encoder(minilm()), SentenceTransformer(minilm(), device="cpu")
    for name in ("docstrings", "oneliners"):
        files = corpus(folder, name, 2_000)
        texts = pads.dataset(files, format="parquet").to_table(columns=["text"])["text"].to_pylist()
        vectors: dict[str, Any] = {}

        def measured(side: str, call: Callable[[], Any]) -> dict[str, float]:
            began = time.perf_counter()
            vectors[side] = call()  # noqa: B023
            return {"rows/s": len(texts) / (time.perf_counter() - began)}  # noqa: B023

        sides = {
            "Encoder.embed": lambda: ours.embed(texts),  # noqa: B023
            "encode, batches of 32": lambda: theirs.encode(texts, batch_size=32),  # noqa: B023
            "encode, batches of 128": lambda: theirs.encode(texts, batch_size=128),  # noqa: B023
        }
        for call in sides.values():
            call()
        found = in_turn(
            {side: partial(measured, side, call) for side, call in sides.items()}, options.repeats
        )
        rate = found["Encoder.embed"]["rows/s"]["median"]
        found["times"] = {side: rate / found[side]["rows/s"]["median"] for side in list(sides)[1:]}
        found["largest difference"] = float(
            np.abs(vectors["Encoder.embed"] - vectors["encode, batches of 32"]).max()
        )
        figures[name] = found
    return figures


def in_ray_data(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Embed files as a stage of Ray Data's, beside our job on Ray.

    Of the pipeline the rows that one corpus has more than another count: both load models.
    """
    import ray.data

    from embed_ops import Encoder

    few, many = 1_000, 5_000
    files = {
        rows: write_texts(folder / f"files-{rows}", numbered_docstrings(rows), 8) for rows in (few, many)
    }
    job = embedding(files[many], folder / "run", "parity.rows=0", "resources.engine=ray")
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    cores = int(ray.cluster_resources()["CPU"])
    shape: dict[str, Any] = {"batch_format": "pyarrow", "concurrency": cores, "num_cpus": 0.5}
    seconds = {}
    for rows in (few, many):
        # Left to itself, Ray Data reads small files as one block, for one actor.
        read = ray.data.read_parquet(str(files[rows])).repartition(4 * cores)
        stage = Encoder.stage(minilm(), threads=1)
        began = time.perf_counter()
        read.map_batches(stage, batch_size=250, **shape).write_parquet(str(folder / f"written-{rows}"))
        seconds[rows] = time.perf_counter() - began
    ray.shutdown()
    rate = (many - few) / (seconds[many] - seconds[few])
    return {"job": job, "pipeline": {"seconds": seconds, "rows/s": rate}, "share": rate / job["rows/s"]}


def corpus(folder: Path, name: str, rows: int) -> Path:
    """Write docstrings, or their first lines, each with a number in front."""
    here = folder / f"{name}-{rows}"
    if not here.exists():
        texts = numbered_docstrings(rows)
        lines = [text.strip().partition("\n")[0] for text in texts]
        write_texts(here, texts if name == "docstrings" else lines, max(1, rows // 10_000))
    return here


PARTS = {"commands": commands, "border": border, "encoder": encoder, "ray-data": in_ray_data}


def main() -> None:
    """Measure the parts that are asked for, print them, and write a record of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS], action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, action="append", help="of the border")
    options = parser.parse_args()
    options.rows = options.rows or [10, 100, 1_000, 10_000, 100_000]
    for part in options.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            figures = PARTS[part](options, Path(folder))
        path = write_record(f"start-{part}", vars(options) | {"model": "all-MiniLM-L6-v2"}, figures)
        print(json.dumps(figures, indent=1))
        print(f"record in {path}")


if __name__ == "__main__":
    main()

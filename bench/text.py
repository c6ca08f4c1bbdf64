"""Rows per second of the whole job against other ways to embed the same files, in turn."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from contest import OURS, Found, compared, in_turn, our_sides, ours, peer
from corpora import CORPORA, write
from peers import PEERS
from record import write_record

from embed_ops.demo import minilm

FIGURES = ("utilization", "padding_waste", "gemm_flops_per_second", "flops_per_second")

OUTPUTS = (
    '{name="embedding", pooling="mean", normalize=true}',
    '{name="four", layer="mean(-4:)", pooling="mean"}',
    '{name="short", layer=4, pooling="cls", dim=128, normalize=true}',
)


def command(files: Path, words: list[str], run: Path) -> list[str]:
    """Give the line of our command."""
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "embed",
        f"source.path={files}",
        "source.column=text",
        f"encoder.model={minilm()}",
    ]
    return [*line, f"sink.path={run}", *words, "--progress", "none"]


def main() -> None:
    """Run all sides in turn, print medians and ratios, write a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", choices=sorted(CORPORA), default="docstrings")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", default="st", help=f"comma-separated: {', '.join(PEERS)}")
    parser.add_argument("--float32", action="store_true", help="run our side in float32 too")
    parser.add_argument(
        "--outputs",
        type=int,
        default=1,
        help=f"run our side with so many outputs too, {len(OUTPUTS)} at most",
    )
    parser.add_argument("words", nargs="*", help="section.key=value for our side")
    options = parser.parse_args()
    against = [side for side in options.against.split(",") if side]
    sides = our_sides(options.words)
    mine = sides if options.float32 else {OURS: sides[OURS]}
    if options.outputs > 1:
        listed = ", ".join(OUTPUTS[: options.outputs])
        several = f"{OURS} {options.outputs} outputs"
        mine = mine | {
            OURS: [*mine[OURS], f"encoder.outputs=[{OUTPUTS[0]}]"],
            several: [*mine[OURS], f"encoder.outputs=[{listed}]"],
        }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write(options.corpus, folder, options.rows)
        files = folder / options.corpus
        run: dict[str, Callable[[], Found]] = {
            side: partial(peer, "peers.py", side, files, minilm(), folder) for side in against
        }
        run |= {
            side: partial(ours, partial(command, files, words), folder, FIGURES)
            for side, words in mine.items()
        }
        runs, vectors = in_turn(run, options.repeats, "rows/s")
    figures = compared(runs, vectors, mine, against, "rows/s", FIGURES)
    figures |= {f"{side} time of the last run": runs[side][-1]["time"] for side in mine}
    if options.outputs > 1:
        figures["times one output"] = (
            figures[f"{OURS} rows/s"]["median"] / figures[f"{several} rows/s"]["median"]
        )
    settings = {
        "corpus": options.corpus,
        "rows": rows,
        "words": options.words,
        "model": "all-MiniLM-L6-v2",
        "order": "alternating",
    }
    path = write_record("text", settings | {"resolved": runs[OURS][-1]["resolved"]}, figures)
    for name, figure in figures.items():
        sys.stdout.write(f"{name}: {figure}\n")
    sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()

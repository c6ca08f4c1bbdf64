"""What a GPU makes of the job, in parts of a few minutes each, with a record of each measurement.

correctness   pytest -m gpu: the GPU's vectors against the float32 reference, memory, kills
engine        a replica's part alone, beside sentence-transformers and plain transformers
jobs          whole jobs through Ray
stages        kernels of stages

Each measurement is written as soon as it is made, so that a part that is cut off still counts.
`--smoke` tries all of it on a CPU, with tiny models.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_engine
import gpu_jobs
import gpu_stages
import torch
from record import RESULTS, write_record

_TESTS = "tests/embedding/test_on_gpu.py"
_SMOKE = {"engine": "minilm,qwen3-0.6b,vit-b16", "jobs": "minilm"}
"""A model of each kind, for a trial."""
_HIDDEN = ("resolved", "measured")
"""What stands in the records and not in the tables."""
Measurement = tuple[str, dict[str, Any]]
"""What was measured, and the figures."""


def _chosen(part: str, options: argparse.Namespace, known: Sequence[str]) -> Sequence[str]:
    asked = options.models or (_SMOKE.get(part, "") if options.smoke else "")
    return asked.split(",") if asked else known


def correctness(place: gpu_engine.Place, options: argparse.Namespace) -> Iterator[Measurement]:
    """Run the tests that need a GPU."""
    line = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-o", "addopts=-ra", "-m", "gpu", _TESTS]
    options.out.mkdir(parents=True, exist_ok=True)
    said = options.out / "gpu-correctness.txt"
    with said.open("w") as file:
        done = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, check=False)
    # 5: without a GPU none is chosen.
    yield "tests", {"exit": done.returncode, "said": said.read_text()[-6000:]}


def engine(place: gpu_engine.Place, options: argparse.Namespace) -> Iterator[Measurement]:
    """Measure the models that are asked for."""
    for name in _chosen("engine", options, gpu_engine.MODELS):
        for side, figures in gpu_engine.engine(name, place):
            yield f"{name}, {side}", figures


def jobs(place: gpu_engine.Place, options: argparse.Namespace) -> Iterator[Measurement]:
    """Run the jobs that are asked for."""
    for name in _chosen("jobs", options, gpu_jobs.JOBS):
        yield name, gpu_jobs.job(name, place, options.words)


def stages(place: gpu_engine.Place, options: argparse.Namespace) -> Iterator[Measurement]:
    """Measure the kernels that are asked for."""
    for name in _chosen("stages", options, gpu_stages.KERNELS):
        yield name, gpu_stages.kernel(name, place)


PARTS: dict[str, Callable[[gpu_engine.Place, argparse.Namespace], Iterator[Measurement]]] = {
    "correctness": correctness,
    "engine": engine,
    "jobs": jobs,
    "stages": stages,
}


def _show(part: str, name: str, figures: Mapping[str, Any]) -> None:
    """Print a table of one measurement."""
    sys.stdout.write(f"\n{part}: {name}\n")
    for label, figure in _flat({key: value for key, value in figures.items() if key not in _HIDDEN}):
        shown = f"{figure:,.4g}" if isinstance(figure, float) else str(figure)
        sys.stdout.write(f"  {label:<58} {shown[:3000]}\n")
    sys.stdout.flush()


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, figure in figures.items():
        label = f"{before}, {name}" if before else name
        if isinstance(figure, Mapping):
            yield from _flat(figure, label)
        else:
            yield label, figure


def _tokenizer(part: str, asked: Path | None) -> Path:
    """Find the folder of a tokenizer, where the part needs one."""
    if asked is not None or part not in ("engine", "jobs"):
        return asked or Path()
    from embed_ops.demo import minilm

    return Path(minilm())


def main() -> int:
    """Run the parts that are asked for; tell whether one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--models", default="", help="comma-separated, by default all of the part")
    parser.add_argument("--rows", type=int, default=32_768, help="texts; of 512 tokens an eighth")
    parser.add_argument("--images", type=int, default=1_024)
    parser.add_argument("--dtype", default="bfloat16", help="of the engine alone")
    parser.add_argument("--tokenizer", type=Path, help="folder of one, by default the demo's model")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--smoke", action="store_true", help="on a CPU, with tiny sizes")
    parser.add_argument("words", nargs="*", help="section.key=value for the jobs")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} finds no GPU: give --smoke to try the program without one")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS if options.part == "all" else (options.part,):
            place = gpu_engine.Place(
                device="cpu" if options.smoke else "cuda",
                dtype="float32" if options.smoke else options.dtype,
                rows=40 if options.smoke else options.rows,
                images=8 if options.smoke else options.images,
                folder=Path(folder) / part,
                tokenizer=_tokenizer(part, options.tokenizer),
                small=options.smoke,
            )
            settings = {"part": part, "rows": place.rows, "images": place.images, "dtype": place.dtype}
            for name, figures in PARTS[part](place, options):
                stem = f"gpu-{part}-{name}".replace(", ", "-").replace(" ", "-")
                write_record(stem, settings | {"words": options.words}, figures, options.out)
                _show(part, name, figures)
                failed |= figures.get("exit", 0) not in (0, 5)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

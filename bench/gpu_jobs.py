"""Whole jobs through Ray on a GPU: rows per second, and what bounds them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu_engine import Place
from gpu_models import IMAGES, texts_of, write_image_model, write_text_model
from images import write_photographs
from write_texts import write_texts

JOBS = ("minilm", "bert-base", IMAGES)
_SHARES = {"minilm": 1.0, "bert-base": 0.5}
_KEPT = (
    "rows",
    "rows_per_second",
    "tokens_per_second",
    "utilization",
    "padding_waste",
    "gemm_flops_per_second",
    "idle",
    "time",
    "seconds",
    "devices",
    "parity",
    "replicas",
    "peak_memory",
    "resolved",
)
_FILES = 8
_LIMIT_S = 150


def job(name: str, place: Place, words: list[str]) -> dict[str, Any]:
    """Run a job from files to files; `words`: section.key=value for it."""
    run = place.folder / f"run-{name}"
    line = [sys.executable, "-m", "embed_ops", "embed", f"sink.path={run}", "--progress", "none", *words]
    line += _source(name, place)
    line += [] if place.small else ["resources.engine=ray"]
    if place.device == "cpu":
        line += ["resources.gpus_per_replica=0", "parity.rows=8"]
    began = time.perf_counter()
    # A group of its own: where the job takes too long, Ray's processes must go with it.
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said = process.communicate(timeout=_LIMIT_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[1] + f"\nended after {_LIMIT_S} s"
    whole = time.perf_counter() - began
    if process.returncode:
        return {"exit": process.returncode, "said": said[-4000:]}
    report = json.loads((run / "report.json").read_text())
    proof = subprocess.run(
        [sys.executable, "-m", "embed_ops", "verify", str(run)], capture_output=True, text=True, check=False
    )
    measured = json.loads((run / "run.json").read_text()).get("measured")
    kept = {key: report.get(key) for key in _KEPT}
    return kept | {"whole_seconds": whole, "verify": proof.returncode, "measured": measured}


def _source(name: str, place: Place) -> list[str]:
    if name == IMAGES:
        files: Path = write_photographs(place.folder / "job", place.images)
        model = write_image_model(place.folder / "job", small=place.small)
        return [
            "source.kind=images",
            f"source.path={files}",
            "encoder.family=image",
            f"encoder.model={model}",
        ]
    texts, limit = texts_of("docstrings", max(16, int(place.rows * _SHARES[name])))
    files = write_texts(place.folder / f"texts-{name}", texts, _FILES)
    model = write_text_model(name, place.folder / "job", place.tokenizer, small=place.small)
    return [
        f"source.path={files}",
        "source.column=text",
        f"encoder.model={model}",
        f"encoder.max_tokens={limit}",
    ]

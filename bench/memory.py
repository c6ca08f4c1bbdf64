"""Law 6: the driver's memory while two million short rows go through a one-layer model."""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
import transformers
from record import write_record

from embed_ops import Spec, embed
from embed_ops.engine.progress import Totals
from embed_ops.engine.showing import Plain
from embed_ops.runs.verify.run import verify

_WORDS = 500


def write_model(folder: Path) -> None:
    """Save a seeded one-layer BERT of width 16 with a word tokenizer."""
    vocabulary = {
        name: number
        for number, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(_WORDS))])
    }
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=16, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(folder: Path, rows: int, per_file: int) -> None:
    """Write rows of four words each, all different."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for first in range(0, rows, per_file):
        count = min(per_file, rows - first)
        words = random.integers(0, _WORDS, (count, 4))
        texts = [f"{first + place} w{a} w{b} w{c} w{d}" for place, (a, b, c, d) in enumerate(words.tolist())]
        pq.write_table(pa.table({"text": texts}), folder / f"{first:09d}.parquet")


class Watch(Plain):
    """Notes the driver's resident memory as units come in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        self._process = psutil.Process()

    def update(self, totals: Totals) -> None:
        """Note (rows, bytes)."""
        self.seen.append((totals.rows, self._process.memory_info().rss))
        super().update(totals)


def main() -> None:
    """Run, and record the memory at tenths of the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--unit-rows", type=int, default=4096)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_rows(folder / "corpus", options.rows, 100_000)
        tree = {
            "source": {"path": str(folder / "corpus"), "column": "text"},
            "encoder": {"model": str(folder / "model")},
            "sink": {"path": str(folder / "run")},
            "resources": {"unit_rows": options.unit_rows},
        }
        watch = Watch()
        began = time.perf_counter()
        run = embed(Spec.parse(tree), reporter=watch)
        seconds = time.perf_counter() - began
        found, report = verify(run.path), run.report
    tenths = {
        f"{tenth}0 %": next(size for rows, size in watch.seen if rows >= options.rows * tenth / 10)
        for tenth in range(1, 11)
    }
    figures = {
        "driver resident bytes at": tenths,
        "growth from 20 % to 100 %, bytes": tenths["100 %"] - tenths["20 %"],
        "peak bytes by kind of process": report["peak_memory"],
        "rows/s": report["rows_per_second"],
        "seconds": seconds,
        "units": report["units"],
        "verified": found.ok,
        "threads in the driver": threading.active_count(),
    }
    path = write_record("memory", {"rows": options.rows, "unit_rows": options.unit_rows}, figures)
    print(
        f"growth from 20 % to 100 %: {figures['growth from 20 % to 100 %, bytes'] / 1e6:.1f} MB; record "
        f"in {path}"
    )


if __name__ == "__main__":
    main()

"""Vectors of words, and long documents in windows.

speed   words a second: readers alone, a replica alone, the whole job, and a plain loop, in turn
long    documents of 50,000 tokens: time and peak memory for three corpus sizes
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from corpora import write
from record import spread, write_record

from embed_ops import Run, Spec, embed
from embed_ops.demo import minilm
from embed_ops.embedding.forward import embed_inputs
from embed_ops.encoders.base import gather
from embed_ops.encoders.windows.encoder import WindowedEncoder
from embed_ops.numerics.ragged import Ragged
from embed_ops.spec.encoder import WordsEncoderSpec

BUDGET, BATCH = 4096, 32


def plainly(texts: list[str], tokenizer: Any, model: Any) -> list[np.ndarray[Any, Any]]:
    """Embed words as a script would.

    Batches in file order, cut at the model's limit, the mean of each word's tokens.
    """
    found = []
    for first in range(0, len(texts), BATCH):
        given = tokenizer(
            texts[first : first + BATCH], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**given).last_hidden_state.numpy()
        for row in range(len(hidden)):
            of_token = np.array([-1 if word is None else word for word in given.word_ids(row)])
            words = np.unique(of_token[of_token >= 0])
            found.append(
                np.array([hidden[row][of_token == word].mean(0) for word in words], np.float32).reshape(
                    len(words), -1
                )
            )
    return found


def run_job(files: Path, run: Path, **encoder: Any) -> tuple[Run, float]:
    """Run the whole job: the run and its seconds."""
    tree = {
        "source": {"path": str(files), "column": "text"},
        "encoder": {"model": str(minilm()), **encoder},
        "sink": {"path": str(run)},
    }
    began = time.perf_counter()
    done = embed(Spec.parse(tree))
    return done, time.perf_counter() - began


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare our parts with the plain loop, on one thread each."""
    rows = write("docstrings", folder, options.rows)
    texts = pa.concat_tables(
        pq.read_table(file) for file in sorted((folder / "docstrings").rglob("*.parquet"))
    ).column("text")
    torch.set_num_threads(1)
    encoder = WindowedEncoder(WordsEncoderSpec(model=str(minilm()), dtype="float32"))
    encoder.load("cpu", "float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    model = transformers.AutoModel.from_pretrained(minilm(), dtype=torch.float32).eval()
    rates: dict[str, list[float]] = {"prepare": [], "replica": [], "plain loop, cut at 256 tokens": []}
    for _ in range(options.repeats):
        began = time.perf_counter()
        prepared = encoder.prepare(texts.combine_chunks())
        prepare = time.perf_counter() - began
        began = time.perf_counter()
        embedded = embed_inputs(encoder, prepared.inputs, BUDGET)
        ours = gather(encoder, prepared.inputs, embedded.vectors, prepared.documents)["embedding"]
        replica = time.perf_counter() - began
        began = time.perf_counter()
        theirs = plainly(texts.to_pylist(), tokenizer, model)
        plain = time.perf_counter() - began
        assert isinstance(ours, Ragged)
        words = int(ours.counts[prepared.index].sum())
        rates["prepare"].append(words / prepare)
        rates["replica"].append(len(ours.values) / replica)
        rates["plain loop, cut at 256 tokens"].append(sum(map(len, theirs)) / plain)
    mine = ours.take(prepared.index)
    same = [place for place, count in enumerate(mine.counts.tolist()) if count == len(theirs[place])]
    whole = [place for place in same if len(theirs[place])][:200]
    apart = max(float(np.abs(mine.take(np.array([place])).values - theirs[place]).max()) for place in whole)
    figures: dict[str, Any] = {f"{part}, words/s": spread(found) for part, found in rates.items()}
    figures["replica times plain loop"] = statistics.median(rates["replica"]) / statistics.median(
        rates["plain loop, cut at 256 tokens"]
    )
    figures |= {
        "rows": rows,
        "words": words,
        "words that the plain loop cuts off": words - sum(map(len, theirs)),
        "largest difference": apart,
    }
    done, seconds = run_job(folder / "docstrings", folder / "run", family="words")
    report = done.report
    figures["whole job"] = {
        "words/s": report["statistics"]["embedding"]["rows"] / seconds,
        "seconds": seconds,
        **{
            name: report[name]
            for name in ("rows_per_second", "utilization", "padding_waste", "peak_memory", "units")
        },
    }
    return figures


def long(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run three sizes of a corpus of long documents."""
    write("docstrings", folder, 4000)
    texts = (
        pa.concat_tables(pq.read_table(file) for file in sorted((folder / "docstrings").rglob("*.parquet")))
        .column("text")
        .to_pylist()
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    document: list[str] = []
    tokens = 0
    for text in texts:
        document.append(text)
        tokens += len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if tokens >= 50_000:
            break
    figures: dict[str, Any] = {"tokens of a document": tokens}
    for size in (2, 4, 8):
        files = folder / f"long{size}"
        files.mkdir()
        # Each begins with its number, so that none is embedded as the twin of another.
        pq.write_table(
            pa.table({"text": [f"{number} " + " ".join(document) for number in range(size)]}),
            files / "a.parquet",
        )
        outputs = [{"name": "embedding"}, {"name": "windows", "each": "window"}]
        done, seconds = run_job(files, folder / f"run{size}", window=256, outputs=outputs)
        rows = done.open().to_table(columns=["window_end", "windows"])
        figures[f"{size} documents"] = {
            "seconds": seconds,
            "windows": sum(map(len, rows["windows"].to_pylist())),
            "peak_memory": done.report["peak_memory"],
            "truncated": done.report["truncated"],
        }
    return figures


def main() -> None:
    """Run the parts that are asked for, and write a record of each."""
    parts: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {"speed": speed, "long": long}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=[*parts], action="append")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.part or parts:
        with tempfile.TemporaryDirectory() as folder:
            figures = parts[name](options, Path(folder))
        path = write_record(
            f"words-{name}", {"rows": options.rows, "model": "all-MiniLM-L6-v2", "budget": BUDGET}, figures
        )
        for part, figure in figures.items():
            sys.stdout.write(f"{part}: {figure}\n")
        sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()

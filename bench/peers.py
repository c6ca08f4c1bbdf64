"""Other ways to embed the same texts with the same model, each a program of its own.

See `peer.py`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow.dataset as pads
from peer import Peer, Vectors, run_peer


def _texts(files: str) -> list[str]:
    found: list[str] = pads.dataset(files, format="parquet").to_table(columns=["text"])["text"].to_pylist()
    return found


def _sentence_transformers(
    files: str, model: str, dtype: str, batches: tuple[int, ...]
) -> tuple[float, Vectors]:
    """Encode with the batch size that is fastest on the first 512 rows."""
    import torch
    from sentence_transformers import SentenceTransformer

    texts = _texts(files)
    loaded = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    loaded.encode(texts[:32])
    seconds = {}
    for size in batches if len(batches) > 1 else ():
        began = time.perf_counter()
        loaded.encode(texts[:512], batch_size=size)
        seconds[size] = time.perf_counter() - began
    best = min(seconds, key=lambda size: seconds[size], default=batches[0])
    began = time.perf_counter()
    vectors = loaded.encode(texts, batch_size=best)
    return len(texts) / (time.perf_counter() - began), np.asarray(vectors, np.float32)


def st(files: str, model: str) -> tuple[float, Vectors]:
    """Run sentence-transformers at its defaults: float32, 32 rows a batch."""
    return _sentence_transformers(files, model, "float32", (32,))


def st_bf16(files: str, model: str) -> tuple[float, Vectors]:
    """Run sentence-transformers in bfloat16 with its best batch size."""
    return _sentence_transformers(files, model, "bfloat16", (8, 16, 32, 64, 128))


class _Predictor:
    """The actor of Ray Data's own examples: tokenize, pad to the longest, forward, mean."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(1)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModel.from_pretrained(model, dtype=torch.float32).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        began = time.time()
        rows = self._tokenizer(
            list(batch["text"]), padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = self._model(**rows).last_hidden_state
        mask = rows["attention_mask"].unsqueeze(-1)
        vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
        times = np.full(len(vectors), began), np.full(len(vectors), time.time())
        return {"place": batch["place"], "vector": vectors.numpy(), "began": times[0], "ended": times[1]}


def ray_data(files: str, model: str) -> tuple[float, Vectors]:
    """Run the `map_batches` pattern of Ray Data's examples.

    An actor a core, 64 rows a batch, float32.
    """
    import os

    import ray
    import ray.data

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=40)
    texts = _texts(files)
    rows = ray.data.from_items([{"place": place, "text": text} for place, text in enumerate(texts)])
    cores = os.cpu_count() or 1
    done = rows.map_batches(
        _Predictor, fn_constructor_args=(model,), batch_size=64, num_cpus=0.75, concurrency=cores
    ).take_all()
    vectors = np.zeros((len(texts), len(done[0]["vector"])), np.float32)
    for row in done:
        vectors[row["place"]] = row["vector"]
    return len(texts) / (max(row["ended"] for row in done) - min(row["began"] for row in done)), vectors


def daft(files: str, model: str) -> tuple[float, Vectors]:
    """Run Daft's `embed_text` with its transformers provider.

    Its loading can't be told apart from its work.
    """
    import daft as frames
    from daft.functions import embed_text

    began = time.perf_counter()
    frame = frames.read_parquet(f"{files}/*.parquet").with_column(
        "vector", embed_text(frames.col("text"), provider="transformers", model=model)
    )
    vectors = np.asarray(frame.to_pydict()["vector"], np.float32)
    return len(vectors) / (time.perf_counter() - began), vectors


PEERS: dict[str, Peer] = {"st": st, "st-bf16": st_bf16, "ray": ray_data, "daft": daft}


if __name__ == "__main__":
    run_peer(PEERS)

"""Other ways to embed the same images with the same model, each a program of its own.

See `peer.py`. Vectors are of the class token.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from peer import Peer, Vectors, run_peer


def _files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*.jpg"))


def pipeline(folder: str, model: str) -> tuple[float, Vectors]:
    """Run transformers' image-feature-extraction pipeline at its defaults.

    Float32, one image at a time, all cores.
    """
    import transformers

    extract: Any = transformers.pipeline("image-feature-extraction", model=model, device="cpu")
    files = _files(folder)
    extract(files[0])
    began = time.perf_counter()
    # Each result is a list of numbers for every position; the class token's comes first.
    vectors = [np.asarray(found[0][0], np.float32) for found in (extract(file) for file in files)]
    return len(files) / (time.perf_counter() - began), np.stack(vectors)


class _Predictor:
    """The actor of Ray Data's image examples: preprocess, forward, in float32."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel

        torch.set_num_threads(1)
        self._processor = AutoImageProcessor.from_pretrained(model)
        self._model = AutoModel.from_pretrained(model, dtype=torch.float32).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        began = time.time()
        values = self._processor(images=list(batch["image"]), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            vectors = self._model(pixel_values=values).last_hidden_state[:, 0].numpy()
        times = np.full(len(vectors), began), np.full(len(vectors), time.time())
        return {"path": batch["path"], "vector": vectors, "began": times[0], "ended": times[1]}


def ray_data(folder: str, model: str) -> tuple[float, Vectors]:
    """Run the pattern of Ray Data's image examples.

    Read_images, an actor a core, 32 images a batch.
    """
    import ray
    import ray.data

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=40)
    # As in the examples, readers would ask for a core each: beside an actor on every core they
    # would wait for ever.
    readers: dict[str, float] = {"num_cpus": 0.2}
    rows = ray.data.read_images(folder, mode="RGB", include_paths=True, ray_remote_args=readers)
    cores = os.cpu_count() or 1
    done = rows.map_batches(
        _Predictor, fn_constructor_args=(model,), batch_size=32, num_cpus=0.75, concurrency=cores
    ).take_all()
    done.sort(key=lambda row: row["path"])
    vectors = np.stack([row["vector"] for row in done]).astype(np.float32)
    return len(vectors) / (max(row["ended"] for row in done) - min(row["began"] for row in done)), vectors


PEERS: dict[str, Peer] = {"pipeline": pipeline, "ray": ray_data}


if __name__ == "__main__":
    run_peer(PEERS)

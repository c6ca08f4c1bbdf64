"""The program that a GPU's quarter of an hour is for runs to its end, on a CPU and small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "bench" / "gpu.py"


@pytest.mark.ray
@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    """All parts write their records, vectors keep parity, and a device decides nothing."""
    line = [sys.executable, str(PROGRAM), "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    records = {path.name.rpartition("_")[0]: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert {
        *("gpu-correctness-tests", "gpu-engine-minilm-docstrings-padded-512", "gpu-jobs-minilm"),
        *("gpu-engine-minilm-docstrings-packed-512", "gpu-engine-qwen3-0.6b-512-packed-512"),
        *("gpu-engine-minilm-512-padded-transformers", "gpu-engine-vit-b16-images"),
        *("gpu-engine-minilm-docstrings-sentence-transformers-with-its-tokenizer",),
        *("gpu-stages-kmeans", "gpu-stages-neighbors", "gpu-stages-pca", "gpu-stages-graph"),
    } <= set(records)
    figures = {name: record["figures"] for name, record in records.items()}
    assert [name for name, figure in figures.items() if "failed" in figure] == []
    alone = [figure for name, figure in figures.items() if name.startswith("gpu-engine")]
    compared = [figure["parity"]["min"] for figure in alone if "parity" in figure]
    assert len(compared) == 13
    assert min(compared) > 0.99999
    assert figures["gpu-jobs-minilm"]["verify"] == 0
    assert figures["gpu-jobs-minilm"]["rows"] == 40
    assert all(figures[f"gpu-stages-{name}"]["equal"] for name in ("kmeans", "neighbors", "pca"))
    assert figures["gpu-stages-graph"]["largest difference"] < 1e-5


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    """Asked to measure where there is none, it measures nothing."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    line = [sys.executable, str(PROGRAM), "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "finds no GPU: give --smoke" in done.stderr

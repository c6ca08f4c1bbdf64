"""The program that a GPU's quarter of an hour is for runs to its end, on a CPU and small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "bench" / "gpu.py"


@pytest.mark.ray
def test_smoke(tmp_path: Path) -> None:
    """All parts write their records, vectors keep parity, and a device decides nothing."""
    line = [sys.executable, str(PROGRAM), "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    records = {path.name.rpartition("_")[0]: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert set(records) == {
        *("gpu-correctness-tests", "gpu-engine-minilm", "gpu-engine-qwen3-0.6b", "gpu-engine-vit-b16"),
        *("gpu-jobs-minilm", "gpu-stages-kmeans", "gpu-stages-neighbors", "gpu-stages-pca"),
    }
    figures = {name: record["figures"] for name, record in records.items()}
    sides = figures["gpu-engine-minilm"]["docstrings"]
    assert all(side["parity"]["min"] > 0.99999 for side in sides.values() if "parity" in side)
    assert {"padded 512", "packed 512", "sentence-transformers with its tokenizer"} <= set(sides)
    assert figures["gpu-jobs-minilm"]["verify"] == 0
    assert figures["gpu-jobs-minilm"]["rows"] == 40
    assert all(figures[f"gpu-stages-{name}"]["equal"] for name in ("kmeans", "neighbors", "pca"))


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    """Asked to measure where there is none, it measures nothing."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    line = [sys.executable, str(PROGRAM), "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "finds no GPU: give --smoke" in done.stderr

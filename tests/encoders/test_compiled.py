"""The compiled forward pass.

Near the eager one, one graph for every shape, the same bits whatever came before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
import torch

from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import TextEncoderSpec

LENGTHS = [(16, 40), (1, 12), (7, 33), (64, 3), (2, 2), (33, 17)]
"""Inputs and tokens of a few batches."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a seeded two-layer BERT."""
    return tiny_models.build("bert", tmp_path_factory.mktemp("model") / "bert")


def batch_of(rows: int, longest: int) -> pa.Table:
    """Make a batch of so many inputs, the first the longest, with ids that depend on the shape."""
    random = np.random.default_rng(rows * 1000 + longest)
    lengths = [longest, *random.integers(1, longest + 1, rows - 1).tolist()]
    return pa.table(
        {"tokens": pa.array([random.integers(5, 60, n).tolist() for n in lengths], pa.list_(pa.int32()))}
    )


def loaded(model: Path, dtype: str, *, compiled: bool) -> TextEncoder:
    """Load the model on one thread."""
    torch.set_num_threads(1)
    encoder = TextEncoder(TextEncoderSpec(model=str(model)))
    encoder.load("cpu", dtype, compiled=compiled)
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_compiled_is_close_to_eager_and_needs_one_graph(model: Path, dtype: str, tolerance: float) -> None:
    """Every shape, one input alone too, gives the eager vectors; no shape adds a graph.

    Any order gives the same bits.
    """
    eager, fast = loaded(model, dtype, compiled=False), loaded(model, dtype, compiled=True)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    first = {shape: fast.forward(batch_of(*shape))["embedding"] for shape in LENGTHS}
    again = {shape: fast.forward(batch_of(*shape))["embedding"] for shape in reversed(LENGTHS)}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    for shape in LENGTHS:
        np.testing.assert_allclose(first[shape], eager.forward(batch_of(*shape))["embedding"], atol=tolerance)
        np.testing.assert_array_equal(first[shape], again[shape])
    assert fast.describe()["compiled"] is True


_BITS = """
import hashlib, sys
sys.path[:0] = sys.argv[3].split(":")
from pathlib import Path
import torch
from test_compiled import LENGTHS, batch_of, loaded
encoder = loaded(Path(sys.argv[1]), "bfloat16", compiled=True)
torch.set_num_threads(int(sys.argv[2]))
order = LENGTHS if sys.argv[2] == "1" else LENGTHS[::-1]
found = {shape: encoder.forward(batch_of(*shape))["embedding"].tobytes() for shape in order}
print(hashlib.sha256(b"".join(found[shape] for shape in LENGTHS)).hexdigest())
"""


@pytest.mark.slow
def test_other_processes_threads_and_caches_give_the_same_bits(model: Path, tmp_path: Path) -> None:
    """A process that compiles, one that reads its cache, one with two threads: the same bits."""
    here = Path(__file__).parent
    folders = ":".join(map(str, (here, here.parent / "fixtures", here.parents[1] / "bench")))
    hashes = []
    for cache, threads in (("a", 1), ("a", 2), ("b", 1)):
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cache)}
        line = [sys.executable, "-c", _BITS, str(model), str(threads), folders]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
        hashes.append(done.stdout.strip())
    assert hashes[0] == hashes[1] == hashes[2]


def test_no_compiler_is_said_clearly(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to compile where no C++ compiler is, the model says what is missing and what to do."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelError, match=r"no C\+\+ compiler \(no-such-compiler\).*encoder.compile=false"):
        loaded(model, "float32", compiled=True)

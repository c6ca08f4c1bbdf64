"""The GPU's vectors, memory and errors: what no CPU can show. `python -m pytest -m gpu`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import graph_cases
import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
import tiny_vision
import torch
from corpora import docstrings
from tiny_runs import contents

from embed_ops import Run, Spec, embed
from embed_ops.embedding.batching import RULES
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import Parity, compare_outputs
from embed_ops.encoders import device
from embed_ops.encoders.base import Encoder, gather
from embed_ops.encoders.registry import make_encoder
from embed_ops.numerics.products import computing_on, segment_sums
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_encoder

pytestmark = pytest.mark.gpu

CLOSE = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.999}
TEXTS = [*tiny_models.TEXTS, *docstrings(60)]
OUTPUTS: dict[str, list[dict[str, Any]]] = {
    "model's own": [],
    "layers": [
        {"name": "mean", "pooling": "mean", "normalize": True},
        {"name": "inner", "pooling": "cls", "layer": 1},
        {"name": "weighted", "pooling": "weighted_mean"},
    ],
    "lists": [{"name": "words", "each": "word"}, {"name": "windows", "each": "window"}],
}


def loaded(tree: dict[str, Any], dtype: str) -> Encoder:
    """Load an encoder on the GPU."""
    device.choose_kernels("cuda")
    encoder = make_encoder(parse_encoder(tree))
    encoder.load("cuda", dtype)
    return encoder


def closeness(encoder: Encoder, column: pa.Array, rule: str = "cuda", budget: int = 1024) -> list[Parity]:
    """Compare with the reference on the CPU, in float32."""
    prepared = encoder.prepare(column)
    embedded = embed_inputs(
        encoder, prepared.inputs, budget, rule=RULES[rule], clock=device.busy_clock("cuda")
    )
    vectors = gather(encoder, prepared.inputs, embedded.vectors, prepared.documents)
    return compare_outputs(vectors, prepared.index, encoder.reference(column))


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("outputs", list(OUTPUTS))
@pytest.mark.parametrize("architecture", list(tiny_models.ARCHITECTURES))
def test_texts(tmp_path: Path, architecture: str, outputs: str, dtype: str) -> None:
    """Every architecture is close to the reference, whatever its outputs."""
    model = tiny_models.build(architecture, tmp_path / architecture)
    if architecture == "t5" and dtype == "float16":
        pytest.skip("T5's activations are larger than float16")
    encoder = loaded({"model": str(model), "outputs": OUTPUTS[outputs]}, dtype)
    assert min(item.min for item in closeness(encoder, pa.array(TEXTS))) > CLOSE[dtype]


@pytest.mark.parametrize("outputs", list(OUTPUTS))
@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen3"])
def test_packed(tmp_path: Path, architecture: str, outputs: str) -> None:
    """Flash attention over texts of different lengths is close to the reference too."""
    model = tiny_models.build(architecture, tmp_path / architecture)
    tree = {"model": str(model), "outputs": OUTPUTS[outputs], "attention": "packed"}
    found = closeness(loaded(tree, "bfloat16"), pa.array(TEXTS), "packed")
    assert min(item.min for item in found) > CLOSE["bfloat16"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "family"), [("vit", "image"), ("clip", "clip")])
def test_images(tmp_path: Path, name: str, family: str, dtype: str) -> None:
    """Pixels normalised on the GPU give the reference's vectors."""
    model = tiny_vision.build_vision(name, tmp_path / name)
    images = [tiny_vision.encoded(image, "JPEG") for image in tiny_vision.photographs()]
    encoder = loaded({"family": family, "model": str(model)}, dtype)
    assert min(item.min for item in closeness(encoder, pa.array(images, pa.binary()))) > CLOSE[dtype]


def test_networks_of_keras(tmp_path: Path) -> None:
    """Keras on torch computes there, and gives what `Model.predict` gives there and here."""
    import tiny_keras

    file = tiny_keras.saved(tiny_keras.classifier(), tmp_path / "net.keras")
    outputs = [{"tensor": "pool"}, {"name": "inner", "tensor": "tower/last", "pooling": "max"}]
    encoder = loaded(
        {"family": "keras", "model": str(file), "preprocessing": "tf", "outputs": outputs}, "float32"
    )
    column = pa.array(
        [tiny_vision.encoded(image, "JPEG") for image in tiny_vision.photographs()], pa.binary()
    )
    assert min(item.min for item in closeness(encoder, column)) > CLOSE["float32"]
    (_, there), (_, here) = encoder.reference(column, "cuda"), encoder.reference(column)
    np.testing.assert_allclose(there["embedding"], here["embedding"], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_a_reference_on_the_gpu(tmp_path: Path, architecture: str) -> None:
    """The reference's own vectors there are those of the CPU, to float32."""
    model = tiny_models.build(architecture, tmp_path / architecture)
    encoder = loaded({"model": str(model)}, "float32")
    column = pa.array(TEXTS[:20])
    (_, here), (_, there) = encoder.reference(column, "cuda"), encoder.reference(column)
    np.testing.assert_allclose(here["embedding"], there["embedding"], atol=1e-5)


@pytest.mark.parametrize("attention", ["padded", "packed"])
def test_no_launch_waits(tmp_path: Path, attention: str) -> None:
    """CUDA itself says that no launch synchronises, pooling and copies included."""
    model = tiny_models.build("bert", tmp_path / "bert")
    encoder = loaded({"model": str(model), "attention": attention}, "bfloat16")
    inputs = encoder.prepare(pa.array(TEXTS)).inputs
    encoder.launch(inputs)()
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = [encoder.launch(inputs[first : first + 16]) for first in range(0, len(inputs), 16)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    vectors = np.concatenate([collect()["embedding"] for collect in launched])
    assert np.isfinite(vectors).all(axis=1).sum() >= len(inputs) - 1


_SMALL_CAP = """
import sys
sys.path[:0] = sys.argv[2].split(":")
import numpy as np, pyarrow as pa, torch
from embed_ops.embedding.forward import Room
from test_on_gpu import RULES, embed_inputs, loaded
total = torch.cuda.mem_get_info()[1]
encoder = loaded({"model": sys.argv[1]}, "float32")
texts = ["a row of words " * 12 + str(number) for number in range(3000)]
inputs = encoder.prepare(pa.array(texts)).inputs
small = embed_inputs(encoder, inputs, 1024, rule=RULES["cuda"]).vectors["embedding"]
torch.cuda.empty_cache()
torch.cuda.set_per_process_memory_fraction(100e6 / total)
halved = [embed_inputs(encoder, inputs, 1 << 20, Room(), rule=RULES["cuda"]) for _ in range(2)]
assert all(found.halved for found in halved), "nothing was halved: the cap is too large"
first, second = (found.vectors["embedding"] for found in halved)
np.testing.assert_array_equal(first, second)
np.testing.assert_allclose(first, small, atol=1e-5)
"""


def in_a_process(program: str, *given: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which may lose its GPU."""
    folders = ":".join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", program, *given, folders], capture_output=True, text=True, check=False
    )


def test_batches_that_do_not_fit_are_halved(tmp_path: Path) -> None:
    """Under a real cap of memory all vectors come, twice the same ones."""
    model = tiny_models.build("bert", tmp_path / "bert")
    done = in_a_process(_SMALL_CAP, str(model))
    assert done.returncode == 0, done.stderr[-3000:]


_LOST = """
import os
import torch
from embed_ops.encoders.device import lost_device, ran_out_of_memory
table = torch.zeros(4, 4, device="cuda")
try:
    table[torch.tensor([1 << 20], device="cuda")].cpu()
except RuntimeError as error:
    assert lost_device(error) and not ran_out_of_memory(error), repr(error)
else:
    raise SystemExit("an index out of range was no error")
# What this process would clean up, it can't any more.
os._exit(0)
"""


def test_a_lost_device_is_told_by_its_error() -> None:
    """A failed assertion on the device leaves it unusable, and is no lack of memory."""
    done = in_a_process(_LOST)
    assert done.returncode == 0, done.stderr[-3000:]


def spec_of(model: Path, folder: Path, run: str, **resources: Any) -> Spec:
    """Make a spec for the GPU, in units of 100 rows."""
    return Spec.parse(
        {
            "source": {"path": str(folder / "in"), "column": "text"},
            "encoder": {"model": str(model), "dtype": "bfloat16"},
            "sink": {"path": str(folder / run)},
            "parity": {"rows": 0},
            "resources": {"unit_rows": 100, "gpus_per_replica": 0.5, **resources},
        }
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write 800 docstrings and a model."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "in").mkdir()
    pq.write_table(pa.table({"text": docstrings(800)}), folder / "in" / "a.parquet")
    return tiny_models.build("bert", folder / "bert"), folder


@pytest.mark.ray
def test_two_replicas_on_a_gpu(corpus: tuple[Path, Path]) -> None:
    """Law 3: one replica and two that share the GPU write the same bytes.

    The report names the GPU.
    """
    model, folder = corpus
    one = embed(spec_of(model, folder, "one", replicas=1))
    two = embed(spec_of(model, folder, "two", replicas=2))
    assert contents(folder / "one") == contents(folder / "two")
    for run in (one, two):
        assert verify(run.path, source=True).differences == []
        assert run.report["devices"] == [torch.cuda.get_device_name()]
        assert run.report["peak_memory"]["gpu"] > 0


@pytest.mark.ray
def test_killed_and_resumed(corpus: tuple[Path, Path]) -> None:
    """Law 1: a job that is killed and goes on writes the bytes of one that was not."""
    model, folder = corpus
    embed(spec_of(model, folder, "straight", replicas=1))
    line = [
        *(sys.executable, "-m", "embed_ops", "embed", f"source.path={folder / 'in'}", "source.column=text"),
        *(f"encoder.model={model}", "encoder.dtype=bfloat16", f"sink.path={folder / 'killed'}"),
        *("resources.unit_rows=100", "resources.gpus_per_replica=0.5", "resources.replicas=1"),
        "parity.rows=0",
    ]
    process = subprocess.Popen([*line, "--progress", "none"])
    data = folder / "killed" / "data"
    while process.poll() is None and not (data.exists() and any(data.rglob("*.parquet"))):
        pass
    process.kill()
    process.wait()
    embed(spec_of(model, folder, "killed", replicas=1))
    assert contents(folder / "killed") == contents(folder / "straight")


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["GraphSAGE", "GAT", "GATv2", "GCN"])
def test_graphs(tmp_path: Path, kind: str) -> None:
    """A GPU gives what a CPU gives, and the same bytes however nodes are divided."""
    graphs.write(graphs.nasty(), tmp_path)
    config = graph_cases.settings(kind.removesuffix("v2"), **({"v2": True} if kind == "GATv2" else {}))
    graph_cases.save(tmp_path / "model", config, graph_cases.reference(config).state_dict())

    def run(name: str, **resources: Any) -> Run:
        return embed(
            Spec.parse(
                {
                    "source": graphs.section(tmp_path),
                    "encoder": {"family": "graph", "model": str(tmp_path / "model")},
                    "sink": {"path": str(tmp_path / name)},
                    "resources": resources,
                }
            )
        )

    on_cpus, one = run("cpu"), run("one", partitions=1, gpus_per_replica=1)
    run("many", partitions=3, gpus_per_replica=0.5)
    assert on_cpus.report["devices"] == ["cpu"]
    assert one.report["devices"] == [torch.cuda.get_device_name()]
    np.testing.assert_allclose(graphs.vectors(one), graphs.vectors(on_cpus), atol=1e-5)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_sums_by_segment(kind: Any) -> None:
    """The GPU adds rows in the order of a CPU: the same bits."""
    rng = np.random.default_rng(0)
    x, order = rng.standard_normal((50_000, 384)).astype(kind), rng.permutation(50_000)
    ends = np.array([0, 1, 1, 30_000, 50_000])
    expected = segment_sums(x, order, ends)
    with computing_on("cuda"):
        np.testing.assert_array_equal(segment_sums(x, order, ends), expected)


@pytest.mark.ray
def test_auto_takes_the_gpu(corpus: tuple[Path, Path]) -> None:
    """Where a GPU is, a run without a word about it computes there, and stays there."""
    model, folder = corpus
    tree = spec_of(model, folder, "auto").model_dump(mode="json")
    tree["resources"]["gpus_per_replica"] = "auto"
    run = embed(Spec.parse(tree))
    assert run.header.resolved["device"] == "cuda"
    assert run.header.resolved["gpus_per_replica"] == 1

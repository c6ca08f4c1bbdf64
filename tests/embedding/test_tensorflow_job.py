"""SavedModels through the job, by an interpreter that has TensorFlow.

TensorFlow is large, and no part of the usual environment: these tests make one of their own beside
it. `TENSORFLOW_PYTHON` names an interpreter that has it, in the place of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings, write_parquet
from tiny_runs import contents, kill_and_go_on

from embed_ops.runs.verify.run import verify

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = 300
PLAIN = """
import sys, numpy as np, pyarrow.parquet as pq, tensorflow as tf
model, corpus, column, output, target = sys.argv[1:]
values = pq.read_table(corpus).column(column).to_pylist()
call = tf.saved_model.load(model).signatures["serving_default"]
name = next(iter(call.structured_input_signature[1]))
dtype = call.structured_input_signature[1][name].dtype
np.save(target, np.concatenate([call(**{name: tf.constant([row], dtype)})[output].numpy() for row in values]))
"""

ISOLATED = """
import json, sys
from embed_ops.embedding.isolation import _context
from embed_ops.spec.spec import parse_encoder
from saved_models import tell_modules
context = _context(parse_encoder({"family": "tensorflow", "model": "m"}))
ours, theirs = context.Pipe(duplex=False)
context.Process(target=tell_modules, args=(theirs,), daemon=True).start()
sys.stdout.write(json.dumps(ours.recv()))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give an interpreter that has TensorFlow and all that this one has."""
    if "TENSORFLOW_PYTHON" in os.environ:
        return os.environ["TENSORFLOW_PYTHON"]
    home = tmp_path_factory.mktemp("with") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    made = home / "bin/python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([made, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    Path(packages, "shared.pth").write_text(sysconfig.get_path("purelib"))
    wanted = ["-c", str(ROOT / "constraints.txt"), "tensorflow-cpu"]
    got = subprocess.run(
        [made, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, check=False
    )
    if got.returncode:
        pytest.skip(f"tensorflow-cpu can't be installed from the index: {got.stderr.strip()[-200:]}")
    return str(made)


def run(python: str, *words: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the interpreter, with the package and the fixtures of this checkout."""
    return subprocess.run(
        [python, *map(str, words)], env=_paths(), capture_output=True, text=True, check=check
    )


def _paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/fixtures'}"}


@pytest.fixture(scope="module")
def folder(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save models, and write corpora of texts and of numbers."""
    folder = tmp_path_factory.mktemp("tensorflow-job")
    save = "import sys, pathlib, saved_models; saved_models.save_models(pathlib.Path(sys.argv[1]))"
    run(python, "-c", save, folder / "models")
    write_parquet(folder / "texts", docstrings(ROWS), files=2)
    numbers = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 4)
    (folder / "numbers").mkdir()
    pq.write_table(pa.table({"id": list(range(ROWS)), "x": flat}), folder / "numbers/a.parquet")
    return folder


def words_of(folder: Path, out: Path, model: str, corpus: str, **fields: Any) -> list[str]:
    """Word a spec, as a command takes it."""
    column, modality = ("text", "text") if corpus == "texts" else ("x", "tensor")
    words = [f"source.path={folder / corpus}", f"source.column={column}", f"source.modality={modality}"]
    words += ["encoder.family=tensorflow", f"encoder.model={folder / 'models' / model}", f"sink.path={out}"]
    words += ["source.keep=['id']", "resources.unit_rows=20", "resources.engine=local"]
    return words + [f"{name.replace('__', '.')}={value}" for name, value in fields.items()]


def embed(python: str, words: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `embed-ops embed`."""
    return run(python, "-m", "embed_ops", "embed", *words, check=check)


def test_encoders(python: str) -> None:
    """The family's own tests, where TensorFlow is."""
    ran = run(
        python, "-m", "pytest", ROOT / "tests/encoders/test_tensorflow.py", "-q", "-n", "1", check=False
    )
    assert ran.returncode == 0, ran.stdout[-3_000:]
    assert "passed" in ran.stdout


@pytest.mark.parametrize(
    ("model", "corpus", "output"), [("text", "texts", "embedding"), ("numbers", "numbers", "vector")]
)
def test_vectors_are_tensorflows(
    model: str, corpus: str, output: str, python: str, folder: Path, tmp_path: Path
) -> None:
    """From file to vector, each row is what TensorFlow gives of it; the run proves itself."""
    outputs = f"[{{tensor='{output}'}}]"
    out = tmp_path / "run"
    said = embed(python, words_of(folder, out, model, corpus, encoder__outputs=outputs))
    assert "Traceback" not in said.stderr + said.stdout
    assert "oneDNN" not in said.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["parity"][0]["min"] >= 0.99999
    assert report["parity"][0]["reference"].startswith("tensorflow ")
    assert report["utilization"] is None
    assert verify(str(out), source=True).ok
    column = "text" if corpus == "texts" else "x"
    run(
        python,
        "-c",
        PLAIN,
        folder / "models" / model,
        folder / corpus,
        column,
        output,
        tmp_path / "plain.npy",
    )
    expected = dict(
        zip(
            pq.read_table(folder / corpus).column("id").to_pylist(),
            np.load(tmp_path / "plain.npy"),
            strict=True,
        )
    )
    table = pq.read_table(out / "data")
    vectors = np.stack([np.asarray(row, np.float64) for row in table.column("embedding").to_pylist()])
    wanted = np.stack([expected[row] for row in table.column("id").to_pylist()]).astype(np.float64)
    assert len(vectors) == ROWS
    both = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((vectors * wanted).sum(axis=1) / both).min() >= 0.99999


def test_killed_and_resumed(python: str, folder: Path, tmp_path: Path) -> None:
    """The command is killed with units half done; the next one gives the bytes of one run."""
    fields = {"parity__rows": 0, "resources__token_budget": 1}
    words = words_of(folder, tmp_path / "killed", "text", "texts", resources__replicas=1, **fields)
    kill_and_go_on(words, tmp_path / "killed", (3,), python, _paths())
    embed(python, words_of(folder, tmp_path / "whole", "text", "texts", resources__replicas=2, **fields))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert verify(str(tmp_path / "killed"), source=True).ok


def test_isolation_loads_no_torch(python: str) -> None:
    """The server that children are forked from has imported TensorFlow, and no torch."""
    told = run(python, "-c", ISOLATED)
    assert json.loads(told.stdout) == ["tensorflow"]


def test_a_row_that_hangs(python: str, folder: Path, tmp_path: Path) -> None:
    """TensorFlow never comes back on one row: it is found, and all others have their vectors."""
    (tmp_path / "corpus").mkdir()
    texts = ["stuck" if row == 30 else f"text {row}" for row in range(40)]
    pq.write_table(pa.table({"id": list(range(40)), "text": texts}), tmp_path / "corpus/a.parquet")
    fields = {"parity__rows": 4, "resources__token_budget": 1, "resources__hang_seconds": 20}
    words = words_of(folder, tmp_path / "run", "hanging", "texts", **fields)
    words = [word for word in words if not word.startswith("source.path")]
    ended = embed(python, [*words, f"source.path={tmp_path / 'corpus'}"], check=False)
    # One reject of forty is more than max_reject_fraction.
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    rejects = pq.read_table(tmp_path / "run/rejects")
    assert (rejects.column("id").to_pylist(), rejects.column("reason").to_pylist()) == ([30], ["hung"])
    assert pq.read_table(tmp_path / "run/data").num_rows == 39
    assert verify(str(tmp_path / "run"), source=True).ok


@pytest.mark.parametrize(
    ("model", "corpus", "fields", "said"),
    [
        (
            "text",
            "texts",
            {"encoder__signature": "other"},
            "no signature 'other'; its signatures: serving_default",
        ),
        ("text", "numbers", {}, "and the column holds numbers"),
        ("numbers", "texts", {}, "and the column holds texts"),
        ("numbers", "numbers", {}, "several may be meant"),
        ("behind", "texts", {}, "its signature takes 2 inputs"),
        ("mixing", "numbers", {}, "differ from the reference"),
        ("drawing", "numbers", {}, "draws at random"),
        ("nowhere", "texts", {}, "is not a model folder"),
    ],
)
def test_what_cannot_be_run_writes_nothing(
    model: str, corpus: str, fields: dict[str, str], said: str, python: str, folder: Path, tmp_path: Path
) -> None:
    """Exit 2 with a sentence, no traceback, and no run directory."""
    ended = embed(python, words_of(folder, tmp_path / "refused", model, corpus, **fields), check=False)
    assert ended.returncode == 2
    assert said in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "refused").exists()

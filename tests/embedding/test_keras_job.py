"""Networks of Keras through the job: images and tensors, resumed with the same bytes; refusals."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_keras
from tiny_keras import NUMBERS, classifier, dense, saved
from tiny_runs import contents, kill_and_go_on, no_session
from tiny_vision import encoded, photographs

from embed_ops import Run, Spec, embed, neighbors
from embed_ops.analysis.starter import starter
from embed_ops.errors import EmbedOpsError, RunError
from embed_ops.runs.verify.run import verify

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photographs' parts and a table of vectors, and a network for each."""
    folder = tmp_path_factory.mktemp("keras-job")
    for number in range(COUNT):
        photo = photographs()[number % 2]
        left, top = (37 * number) % 400, (23 * number) % 250
        place = folder / f"images/{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        part = encoded(photo.crop((left, top, left + 120, top + 90)), "JPEG", quality=90)
        (place / f"{number:03d}.jpg").write_bytes(b"no image" if number == 7 else part)
    rows = np.random.default_rng(1).normal(size=(200, NUMBERS)).tolist()
    rows[5], rows[9] = None, rows[9][:2]
    table = pa.table({"id": np.arange(200), "features": pa.array(rows, pa.list_(pa.float32()))})
    (folder / "tables").mkdir()
    pq.write_table(table, folder / "tables/x.parquet", row_group_size=50)
    saved(classifier(), folder / "net.keras")
    saved(dense(), folder / "dense.keras")
    return folder


def words_of(folder: Path, run: Path, **fields: Any) -> list[str]:
    """Word a spec over the images, as a command takes it."""
    given = {
        "source.kind": "images",
        "source.path": folder / "images",
        "source.keep": "['path']",
        "encoder.family": "keras",
        "encoder.model": folder / "net.keras",
        "encoder.preprocessing": "tf",
        "encoder.outputs": "[{tensor='pool'}]",
        "sink.path": run,
        "resources.unit_rows": 5,
        "max_reject_fraction": 0.5,
        "parity.rows": 8,
    }
    given |= {name.replace("__", "."): value for name, value in fields.items()}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def spec_of(folder: Path, run: Path, **fields: Any) -> Spec:
    """Make that spec."""
    return Spec.load(None, words_of(folder, run, **fields))


def of_tensors(folder: Path) -> dict[str, Any]:
    """Give the fields of a spec over the table of vectors."""
    return {
        "source__kind": "parquet",
        "source__path": folder / "tables",
        "source__column": "features",
        "source__modality": "tensor",
        "source__keep": "['id']",
        "encoder__model": folder / "dense.keras",
        "encoder__preprocessing": None,
        "encoder__outputs": "[{name='h', tensor='hidden'}, {name='code', normalize=true}]",
        "resources__unit_rows": 30,
    }


@pytest.mark.usefixtures("engine")
def test_laws(folder: Path, tmp_path: Path) -> None:
    """Replicas change no byte, what is deleted comes back, other preprocessing is another run."""
    run = embed(spec_of(folder, tmp_path / "one", resources__replicas=1))
    assert verify(run.path, source=True).ok
    parity = run.report["parity"][0]
    assert parity["min"] > 0.999999
    assert parity["reference"].startswith("keras ")
    assert (run.report["rows"], run.report["rejected"]) == (COUNT - 1, 1)
    assert run.report["utilization"] is not None
    before = contents(Path(run.path))
    assert contents(Path(embed(spec_of(folder, tmp_path / "two", resources__replicas=2)).path)) == before
    for lost in sorted((Path(run.path) / "data").rglob("*.parquet"))[3:6]:
        lost.unlink()
    assert embed(spec_of(folder, tmp_path / "one", resources__replicas=1)).report["units_skipped"] > 0
    assert contents(Path(run.path)) == before
    embed(spec_of(folder, tmp_path / "one", resources__replicas=1), session=no_session)
    near = neighbors(run.path, [(folder / "images/2/008.jpg").read_bytes()], k=1)
    assert near.scores[0][0] == pytest.approx(1, abs=1e-5)
    assert near.table().column("path").to_pylist() == ["2/008.jpg"]
    for name, value in (("preprocessing", "caffe"), ("interpolation", "bilinear")):
        with pytest.raises(RunError, match=f"encoder.{name}"):
            embed(spec_of(folder, tmp_path / "one", **{f"encoder__{name}": value}))


@pytest.mark.usefixtures("engine")
def test_columns_of_tensors(folder: Path, tmp_path: Path) -> None:
    """A network of vectors embeds a column of lists, as Keras called plainly does."""
    run = embed(spec_of(folder, tmp_path / "tensors", **of_tensors(folder)))
    assert verify(run.path, source=True).ok
    assert run.report["rejected"] == 2
    assert min(parity["min"] for parity in run.report["parity"]) > 0.999999
    table = Run(run.path).open().to_table()
    rows = pq.read_table(folder / "tables/x.parquet").column("features").to_pylist()
    kept = np.array([rows[at] for at in table.column("id").to_pylist()], np.float32)
    network = tiny_keras.keras.saving.load_model(folder / "dense.keras")
    for name, path in (("h", "hidden"), ("code", "")):
        expected = tiny_keras.plainly(network, path, kept)
        if name == "code":
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        vectors = np.array(table.column(name).to_pylist())
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["images", "tensors"])
def test_killed_and_resumed(what: str, folder: Path, tmp_path: Path) -> None:
    """The command is killed twice with units half done; the third gives the bytes of one run."""
    fields = {"resources__token_budget": 1, "parity__rows": 0, "resources__engine": "local"}
    fields |= of_tensors(folder) | {"resources__unit_rows": 5} if what == "tensors" else {}
    kill_and_go_on(words_of(folder, tmp_path / "killed", **fields), tmp_path / "killed", (2, 6))
    whole = embed(spec_of(folder, tmp_path / "whole", **fields))
    assert contents(tmp_path / "killed") == contents(Path(whole.path))
    assert verify(str(tmp_path / "killed"), source=True).ok


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"encoder__preprocessing": None}, "does not say what became of pixels"),
        ({"encoder__outputs": "[{tensor='nope'}]"}, "has no layer 'nope'"),
        ({"encoder__outputs": "[{}]"}, "ends with the probabilities of classes"),
        ({"encoder__model": "/nowhere/net.keras"}, "is not a model folder"),
        ({"source__modality": "tensor"}, "lists of numbers come from a column"),
        ({"encoder__model": "{folder}/dense.keras"}, "are no images in colours"),
        (
            {"encoder__model": "{folder}/dense.keras", "encoder__preprocessing": None},
            "takes tensors, and source.modality is 'image'",
        ),
    ],
)
@pytest.mark.usefixtures("engine")
def test_what_cannot_be_run_writes_nothing(
    fields: dict[str, Any], said: str, folder: Path, tmp_path: Path
) -> None:
    """Exit 2 with one sentence, and no run directory."""
    given = {name: value and value.replace("{folder}", str(folder)) for name, value in fields.items()}
    if "dense" in (given.get("encoder__model") or ""):
        given["encoder__outputs"] = "[{tensor='hidden'}]"
    with pytest.raises(EmbedOpsError, match=said) as refused:
        embed(spec_of(folder, tmp_path / "refused", **given))
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "refused").exists()


def test_init_tells_the_family(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of Keras is recognised; what only a person knows is left to say."""
    monkeypatch.chdir(folder)
    first = starter(str(folder / "images"), model=str(folder / "net.keras"))
    text = first.text("embed.toml")
    spec = Spec.parse(tomllib.loads(text))
    assert (spec.encoder.family, spec.encoder.outputs[0].tensor) == ("keras", "pool")
    assert '# preprocessing = "tf"      # required' in text
    spec = Spec.parse(
        tomllib.loads(starter(str(folder / "tables"), model=str(folder / "dense.keras")).text("embed.toml"))
    )
    assert (spec.encoder.family, spec.source.modality, spec.source.column) == ("keras", "tensor", "features")

"""ONNX files through the job: resumed with the same bytes; refusals write nothing."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tiny_onnx
from corpora import docstrings, write_parquet
from onnx_export import export_texts
from tiny_models import build
from tiny_runs import contents, kill_and_go_on, no_session

from embed_ops import Run, Spec, embed, neighbors
from embed_ops.analysis.starter import starter
from embed_ops.errors import EmbedOpsError, ModelError, RunError
from embed_ops.runs.verify.run import verify

ROWS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a corpus, and a model folder that has nothing but its export and its tokenizer."""
    folder = tmp_path_factory.mktemp("onnx-job")
    write_parquet(folder / "corpus", docstrings(ROWS), files=2)
    whole = build("bert", folder / "whole")
    export_texts(whole, folder / "model/onnx/model.onnx")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(whole / name, folder / "model")
    return folder


def words_of(folder: Path, run: Path, **fields: Any) -> list[str]:
    """Word a spec over the corpus, as a command takes it."""
    words = [f"source.path={folder / 'corpus'}", "source.column=text", "source.keep=['id']"]
    words += ["encoder.family=onnx", f"encoder.model={folder / 'model'}", f"sink.path={run}"]
    words += ["encoder.outputs=[{pooling='mean', normalize=true}]", "resources.unit_rows=20"]
    return words + [f"{name.replace('__', '.')}={value}" for name, value in fields.items()]


def spec_of(folder: Path, run: Path, **fields: Any) -> Spec:
    """Make that spec."""
    return Spec.load(None, words_of(folder, run, **fields))


@pytest.mark.usefixtures("engine")
def test_laws(folder: Path, tmp_path: Path) -> None:
    """Replicas change no byte, what is deleted comes back, another file is another run."""
    run = embed(spec_of(folder, tmp_path / "one", resources__replicas=1))
    assert verify(run.path, source=True).ok
    parity = run.report["parity"][0]
    assert parity["min"] > 0.999999
    assert parity["reference"].startswith("onnxruntime ")
    assert run.report["rows"] == ROWS
    assert run.report["utilization"] is not None
    before = contents(Path(run.path))
    assert contents(Path(embed(spec_of(folder, tmp_path / "two", resources__replicas=2)).path)) == before
    for lost in sorted((Path(run.path) / "data").rglob("*.parquet"))[3:6]:
        lost.unlink()
    assert embed(spec_of(folder, tmp_path / "one", resources__replicas=1)).report["units_skipped"] > 0
    assert contents(Path(run.path)) == before
    embed(spec_of(folder, tmp_path / "one", resources__replicas=1), session=no_session)
    near = neighbors(run.path, [docstrings(9)[8]], k=1)
    assert near.scores[0][0] == pytest.approx(1, abs=1e-5)
    other = tmp_path / "other"
    shutil.copytree(folder / "model", other)
    (other / "onnx/model.onnx").write_bytes((other / "onnx/model.onnx").read_bytes() + b"\x12\x01x")
    with pytest.raises(RunError, match=r"model model\.onnx"):
        embed(spec_of(folder, tmp_path / "one", encoder__model=other))


@pytest.mark.usefixtures("engine")
def test_without_products_to_count(folder: Path, tmp_path: Path) -> None:
    """A graph that tells no FLOPs is embedded all the same, and the report says none."""
    model = tmp_path / "lookup"
    shutil.copytree(folder / "model", model, ignore=shutil.ignore_patterns("onnx"))
    tiny_onnx.write(model / "model.onnx")
    run = embed(spec_of(folder, tmp_path / "lookup-run", encoder__model=model))
    assert verify(run.path).ok
    assert run.report["utilization"] is None
    assert Run(run.path).header.model["flops"].startswith("not counted")


@pytest.mark.slow
def test_killed_and_resumed(folder: Path, tmp_path: Path) -> None:
    """The command is killed twice with units half done; the third gives the bytes of one run."""
    fields = {"resources__token_budget": 1, "parity__rows": 0, "resources__engine": "local"}
    kill_and_go_on(words_of(folder, tmp_path / "killed", **fields), tmp_path / "killed", (2, 6))
    whole = embed(spec_of(folder, tmp_path / "whole-run", **fields))
    assert contents(tmp_path / "killed") == contents(Path(whole.path))
    assert verify(str(tmp_path / "killed"), source=True).ok


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"encoder__outputs": "[{tensor='nope', pooling='mean'}]"}, "has no tensor 'nope'"),
        ({"encoder__outputs": "[{name='x'}]"}, "nothing beside the file"),
        ({"encoder__file": "onnx/other.onnx"}, "no file onnx/other.onnx there, found onnx/model.onnx"),
        ({"encoder__model": "/nowhere/model.onnx"}, "is not a model folder"),
        ({"source__modality": "image"}, "source.modality is 'image'"),
    ],
)
@pytest.mark.usefixtures("engine")
def test_what_cannot_be_run_writes_nothing(
    fields: dict[str, str], said: str, folder: Path, tmp_path: Path
) -> None:
    """Exit 2 with one sentence, and no run directory."""
    words = words_of(folder, tmp_path / "refused")
    for name, value in fields.items():
        address = name.replace("__", ".")
        words = [word for word in words if not word.startswith(f"{address}=")] + [f"{address}={value}"]
    with pytest.raises(EmbedOpsError, match=said) as refused:
        embed(Spec.load(None, words))
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "refused").exists()


def test_init_tells_the_family(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or a file of ONNX is recognised; weights of torch beside it are preferred."""
    monkeypatch.chdir(folder)
    corpus = str(folder / "corpus")
    for model in (folder / "model", folder / "model/onnx/model.onnx"):
        spec = Spec.parse(tomllib.loads(starter(corpus, model=str(model)).text("embed.toml")))
        assert (spec.encoder.family, spec.encoder.model) == ("onnx", str(model))
    both = folder / "both"
    shutil.copytree(folder / "whole", both)
    shutil.copytree(folder / "model/onnx", both / "onnx")
    assert starter(corpus, model=str(both)).family == "text"
    shutil.copytree(folder / "model/onnx", folder / "alone/onnx")
    with pytest.raises(ModelError, match=r"no tokenizer\.json beside it"):
        starter(corpus, model=str(folder / "alone/onnx/model.onnx"))

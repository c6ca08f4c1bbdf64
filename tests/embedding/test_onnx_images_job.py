"""Images in ONNX files through the job: resumed with the same bytes; refusals write nothing."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_onnx
from onnx_export import export_texts
from stage_runs import invoke
from tiny_models import build
from tiny_runs import contents, kill_and_go_on, no_session
from tiny_vision import encoded, photographs

from embed_ops import Run, Spec, embed, neighbors
from embed_ops.analysis.starter import starter
from embed_ops.errors import EmbedOpsError, ModelError, RunError
from embed_ops.runs.verify.run import verify

IMAGES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photographs' parts in two folders, and the exports of a tiny ViT and a tiny BERT."""
    folder = tmp_path_factory.mktemp("onnx-images")
    for number in range(IMAGES):
        left, top = (37 * number) % 400, (23 * number) % 250
        part = photographs()[number % 2].crop((left, top, left + 90 + number % 50, top + 80))
        file = folder / f"corpus/{number % 2}/{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no image" if number == 7 else encoded(part, "PNG"))
    tiny_onnx.export_vision("vit", folder / "model")
    export_texts(build("bert", folder / "texts"), folder / "texts/onnx/model.onnx")
    (folder / "texts/model.safetensors").unlink()
    return folder


def words_of(folder: Path, run: Path, **fields: Any) -> list[str]:
    """Word a spec over the corpus, as a command takes it."""
    words = ["source.kind=images", f"source.path={folder / 'corpus'}", "source.keep=['label']"]
    words += ["encoder.family=onnx", f"encoder.model={folder / 'model'}", f"sink.path={run}"]
    words += ["encoder.outputs=[{pooling='mean', normalize=true}]", "resources.unit_rows=5"]
    words += ["max_reject_fraction=0.1"]
    return words + [f"{name.replace('__', '.')}={value}" for name, value in fields.items()]


def spec_of(folder: Path, run: Path, **fields: Any) -> Spec:
    """Make that spec."""
    return Spec.load(None, words_of(folder, run, **fields))


@pytest.mark.usefixtures("engine")
def test_laws(folder: Path, tmp_path: Path) -> None:
    """Replicas change no byte, what is deleted comes back, an image finds itself."""
    run = embed(spec_of(folder, tmp_path / "one", resources__replicas=1))
    assert verify(run.path, source=True).ok
    assert (run.report["rows"], run.report["rejected"]) == (IMAGES - 1, 1)
    parity = run.report["parity"][0]
    assert parity["min"] > 0.999999
    assert parity["reference"].startswith("onnxruntime ")
    assert "enough" not in parity
    assert run.report["utilization"] is not None
    before = contents(Path(run.path))
    assert contents(Path(embed(spec_of(folder, tmp_path / "two", resources__replicas=2)).path)) == before
    for lost in sorted((Path(run.path) / "data").rglob("*.parquet"))[3:6]:
        lost.unlink()
    assert embed(spec_of(folder, tmp_path / "one", resources__replicas=1)).report["units_skipped"] > 0
    assert contents(Path(run.path)) == before
    embed(spec_of(folder, tmp_path / "one", resources__replicas=1), session=no_session)
    near = neighbors(run.path, [(folder / "corpus/0/002.png").read_bytes()], k=1)
    assert near.scores[0][0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(ModelError, match="its model embeds images, and the queries are texts"):
        neighbors(run.path, ["a cat"], k=1)
    with pytest.raises(RunError, match=r"encoder\.channels"):
        embed(spec_of(folder, tmp_path / "one", encoder__channels="first"))


@pytest.mark.usefixtures("engine")
def test_compared_with_the_original(folder: Path, tmp_path: Path) -> None:
    """The first images go through the model in torch too, and run.json says which that is."""
    original = folder / "model-torch"
    run = embed(spec_of(folder, tmp_path / "run", encoder__reference=original))
    own, by_original = run.report["parity"]
    assert own["reference"].startswith("onnxruntime ")
    assert by_original["reference"].startswith(f"{original}, by transformers ")
    assert by_original["min"] > 0.99999
    assert by_original["enough"] == [1.0, 1.0]
    told = Run(run.path).header.model
    assert told is not None
    assert told["reference"] == {
        "model": str(original),
        "commit": None,
        "compared": ["embedding"],
        "not compared": [],
    }
    # It decides no vector: the same run goes on without it.
    embed(spec_of(folder, tmp_path / "run"), session=no_session)


@pytest.mark.slow
def test_killed_and_resumed(folder: Path, tmp_path: Path) -> None:
    """The command is killed twice with units half done; the third gives the bytes of one run."""
    fields = {"resources__token_budget": 1, "parity__rows": 0, "resources__engine": "local"}
    kill_and_go_on(words_of(folder, tmp_path / "killed", **fields), tmp_path / "killed", (2, 5))
    whole = embed(spec_of(folder, tmp_path / "whole", **fields))
    assert contents(tmp_path / "killed") == contents(Path(whole.path))
    assert verify(str(tmp_path / "killed"), source=True).ok


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "texts": ({"encoder__model": "{folder}/texts"}, "takes texts, and source.modality is 'image'"),
    "no such tensor": ({"encoder__outputs": "[{tensor='nope'}]"}, "has no tensor 'nope'"),
    "a pooling of texts": ({"encoder__outputs": "[{pooling='last'}]"}, "pooling 'last' is of texts"),
    "a prompt": ({"encoder__prompt": "a"}, "prompt is for texts"),
    "no original": (
        {"encoder__reference": "/nowhere"},
        "encoder.reference: .*/nowhere is not a model folder",
    ),
    "texts as original": ({"encoder__reference": "{folder}/texts"}, r"encoder\.reference: "),
}


@pytest.mark.parametrize("fault", REFUSED)
@pytest.mark.usefixtures("engine")
def test_what_cannot_be_run_writes_nothing(fault: str, folder: Path, tmp_path: Path) -> None:
    """Exit 2 with one sentence, and no run directory."""
    fields, said = REFUSED[fault]
    words = words_of(folder, tmp_path / "refused")
    for name, value in fields.items():
        address = name.replace("__", ".")
        words = [word for word in words if not word.startswith(f"{address}=")]
        words.append(f"{address}={value.replace('{folder}', str(folder))}")
    with pytest.raises(EmbedOpsError, match=said) as refused:
        embed(Spec.load(None, words))
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "refused").exists()


def test_a_model_of_images_over_texts(folder: Path, tmp_path: Path) -> None:
    """`plan` and `embed` both say what the file takes; nothing is written."""
    (tmp_path / "in.csv").write_text("text\na\n")
    words = ["source.kind=csv", f"source.path={tmp_path / 'in.csv'}", "source.column=text"]
    words += ["encoder.family=onnx", f"encoder.model={folder / 'model'}", f"sink.path={tmp_path / 'out'}"]
    for verb in ("embed", "plan"):
        code, told = invoke(verb, *words)
        assert code == 2
        assert "takes images, and source.modality is 'text'; set source.modality" in told
    assert not (tmp_path / "out").exists()


def test_init_tells_the_family(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of images in ONNX is recognised, and one of texts is not taken for it."""
    monkeypatch.chdir(folder)
    corpus = str(folder / "corpus")
    for model in (folder / "model", folder / "model/onnx/model.onnx"):
        spec = Spec.parse(tomllib.loads(starter(corpus, model=str(model)).text("embed.toml")))
        assert (spec.encoder.family, spec.encoder.model) == ("onnx", str(model))
        assert spec.source.modality == "image"
    assert starter(corpus, model=str(folder / "model-torch")).family == "image"
    files = sorted((folder / "corpus").rglob("*.png"))
    pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), folder / "table.parquet")
    table = starter(str(folder / "table.parquet"), model=str(folder / "model")).text("embed.toml")
    assert Spec.parse(tomllib.loads(table)).source.modality == "image"
    with pytest.raises(ModelError, match="holds no model that embeds images"):
        starter(corpus, model=str(folder / "texts"))
    shutil.copytree(folder / "model/onnx", folder / "alone")
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json beside it"):
        starter(corpus, model=str(folder / "alone/model.onnx"))

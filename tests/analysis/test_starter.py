"""A first spec for data that is there: each kind of file gives one that plans.

What can't be embedded is said.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_vision import build_vision
from typer.testing import CliRunner

from embed_ops import Spec, embed
from embed_ops.analysis.starter import starter, write_starter
from embed_ops.analysis.survey import look
from embed_ops.commands.cli import app
from embed_ops.errors import ModelError, SourceError, SpecError
from embed_ops.sources.corpus import Corpus

ROWS = [
    {"id": row, "title": f"title {row}", "body": f"a longer text about number {row}", "score": 0.5}
    for row in range(20)
]


def parquet(folder: Path) -> None:
    """Write rows as Parquet."""
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")


def lines(folder: Path) -> None:
    """Write rows as JSONL."""
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))


def table(folder: Path) -> None:
    """Write rows as CSV."""
    (folder / "a.csv").write_text(
        "id,title,body,score\n" + "\n".join(",".join(map(str, row.values())) for row in ROWS)
    )


@pytest.mark.parametrize("write", [parquet, lines, table])
def test_tables(write: Any, tmp_path: Path) -> None:
    """The column of the longest texts is embedded, ids and titles are kept, and the spec plans."""
    write(tmp_path)
    survey = look(str(tmp_path))
    assert (survey.column, survey.modality, survey.keep) == ("body", "text", ("id", "title"))
    spec = write_and_load(tmp_path)
    assert spec.source.column == "body"
    assert Corpus.open(spec.source).plan().files


def invoke(*words: str) -> tuple[int, str]:
    """Run a command in this process: its exit code and everything it said."""
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, " ".join((result.output + result.stderr).split())


def write_and_load(data: Path, **options: Any) -> Spec:
    """Write a starter beside the data and read it as a command does."""
    target = data.parent / f"{data.name}.toml"
    write_starter(str(data), str(target), **options)
    with pytest.raises(SpecError, match="is there already"):
        write_starter(str(data), str(target))
    assert str(target) in target.read_text()
    return Spec.load(target)


def test_images_lines_and_columns_of_images(tmp_path: Path) -> None:
    """Folders of images, text files, and a Parquet column of image bytes."""
    for name in ("images", "text", "column"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "text" / "a.txt").write_text("one\ntwo\n")
    picture = (tmp_path / "images" / "a.png").read_bytes()
    pq.write_table(
        pa.table({"image": [picture], "label": [3], "caption": ["a long caption of a picture"]}),
        tmp_path / "column" / "a.parquet",
    )
    assert write_and_load(tmp_path / "images").encoder.family == "image"
    assert (
        write_and_load(tmp_path / "text", model="some/model", sink="s3://bucket/run").sink.path
        == "s3://bucket/run"
    )
    spec = write_and_load(tmp_path / "column")
    assert (spec.source.column, spec.source.modality, spec.source.keep) == ("image", "image", ("label",))


@pytest.mark.parametrize(
    ("write", "kind"),
    [(parquet, "parquet"), (lines, "jsonl"), (table, "csv")],
    ids=["parquet", "jsonl", "csv"],
)
def test_the_ending_of_a_named_file_tells_its_kind(write: Any, kind: str, tmp_path: Path) -> None:
    """A file and a glob are of the kind that their ending tells; a glob of several is refused."""
    write(tmp_path)
    for path in (f"a.{kind}", "a.*", f"*.{kind}"):
        survey = look(str(tmp_path / path))
        assert (survey.kind, survey.column, survey.files) == (kind, "body", 1)
    written = starter(str(tmp_path / f"a.{kind}")).text("embed.toml")
    assert written.startswith(f"# 1 file of kind {kind}, ")
    assert "0.0 MB" not in written
    assert '# where = "length(body) > 0"' in written
    assert int(written.split("# k = ")[1].split()[0]) < len(ROWS)
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(SourceError, match=rf"matches a\.\w+ of kind {kind}, and a\.txt.* as \*\.{kind}"):
        look(str(tmp_path / "a.*"))
    assert look(str(tmp_path)).kind == kind


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "a.parquet",
            "taken for parquet by its name: .* none of 1 files can be read; a.parquet: Parquet magic",
        ),
        ("a.dat", "nothing here that can be embedded; .*no file ends in .parquet.*; found a.dat"),
        ("a.jsonl", "columns: none"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(name: str, told: str, tmp_path: Path) -> None:
    """One sentence, by the command as well, and whether the file or its folder is named."""
    (tmp_path / name).write_text("[1, 2, 3]")
    with pytest.raises(SourceError, match=told):
        look(str(tmp_path / name))
    if name == "a.parquet":
        with pytest.raises(SourceError, match=told):
            look(str(tmp_path))
    code, said = invoke("init", str(tmp_path / name), "--output", str(tmp_path / "a.toml"))
    assert (code, "Traceback" in said) == (2, False), said


def test_nothing_to_embed(tmp_path: Path) -> None:
    """An empty folder, a table without texts, and a run."""
    with pytest.raises(SourceError, match="nothing here that can be embedded"):
        starter(str(tmp_path))
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(
        SourceError, match=r"no column of texts, images or lists of numbers; columns: n \(int64\)"
    ):
        starter(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "plan.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    with pytest.raises(SourceError, match="is a run directory"):
        starter(str(tmp_path))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("data", "sink"), [("a.parquet", "embedded"), (".", "{here}-embedded"), ("*.parquet", "embedded")]
)
def test_a_spec_runs_where_it_was_written(
    data: str, sink: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`init` of a file, of this folder and of a glob: the run lies apart, and a second one too."""
    here = tmp_path / "data"
    here.mkdir()
    parquet(here)
    monkeypatch.chdir(here)
    for number, end in ((1, ""), (2, "-2")):
        code, said = invoke("init", data, "--model", tiny, "--output", f"{number}.toml")
        assert code == 0, said
        spec = Spec.load(f"{number}.toml")
        assert spec.sink.path == f"{sink.format(here=here)}{end}"
        code, said = invoke("plan", f"{number}.toml", "--progress", "none")
        assert (code, f"Just run it: embed-ops embed {number}.toml" in said) == (0, True), said
        parity, replicas = {"rows": 0}, {"replicas": 1}
        run = embed(spec.model_dump(mode="json") | {"parity": parity, "resources": replicas})
        assert run.open().count_rows() == len(ROWS)


def test_images_in_folders(tmp_path: Path) -> None:
    """The folder is a label, k is of the rows, and a model's folder tells its family."""
    for number, name in enumerate(("cats", "cats", "dogs", "dogs")):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / f"{number}.png")
    vision = {name: str(build_vision(name, tmp_path / name)) for name in ("clip", "dinov2")}
    for name, family in (("clip", "clip"), ("dinov2", "image")):
        spec = Spec.parse(tomllib.loads(starter(str(tmp_path / "photos"), model=vision[name]).text("x")))
        assert (spec.encoder.family, spec.source.keep) == (family, ("label",))
    text = starter(str(tmp_path / "photos")).text("x").replace("# [[stage]]", "[[stage]]")
    stage = text.replace('# kind = "kmeans"', 'kind = "kmeans"').replace("# k =", "k =")
    spec = Spec.parse(tomllib.loads(stage.replace('# label = "label"', 'label = "label"')))
    assert spec.stage[0].model_dump()["k"] == 2
    assert spec.stage[0].model_dump()["label"] == "label"


def test_a_model_for_other_data(tiny: str, tmp_path: Path) -> None:
    """A folder that holds no model for the data is refused with what it lacks."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ModelError, match=r"holds no model that embeds images: .*no preprocessor_config"):
        starter(str(tmp_path), model=tiny)
    with pytest.raises(ModelError, match=r"is not a model folder"):
        starter(str(tmp_path), model="./nowhere")


def test_runs_among_the_data(tmp_path: Path) -> None:
    """A run beside the files is left out by a glob; one deep among them is named."""
    parquet(tmp_path)
    for place in ("out", "deep/er"):
        (tmp_path / place / "data").mkdir(parents=True)
        (tmp_path / place / "run.json").write_text("{}")
        pq.write_table(pa.table({"_source": ["a"]}), tmp_path / place / "plan.parquet")
    chosen = starter(str(tmp_path))
    assert chosen.survey.runs == ("deep/er", "out")
    assert Spec.parse(tomllib.loads(chosen.text("x"))).source.paths == (f"{tmp_path}/*.parquet",)
    with pytest.raises(SpecError, match="lies inside the source"):
        starter(f"{tmp_path}/*.parquet", sink=str(tmp_path))
    parquet(tmp_path / "deep")
    with pytest.raises(SourceError, match="runs lie among its files"):
        starter(str(tmp_path))

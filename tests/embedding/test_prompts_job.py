"""A prompt for each row through the job: from its columns, with rejects, killed units, queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings
from tiny_models import build
from tiny_runs import contents, tiny_spec

from embed_ops import Encoder, Run, Spec, embed, neighbors
from embed_ops.analysis.predict import predict
from embed_ops.errors import EmbedOpsError, ModelError, RunError, SourceError, SpecError
from embed_ops.runs.verify.run import verify

ROWS = 200
KINDS = ("query", "passage", "titled", "")
PROMPTS = {
    "query": "query: ",
    "passage": "passage {{all}}: ",
    "titled": "{title}, number {id}: ",
    "": "",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model and a corpus whose rows are of several kinds."""
    folder = tmp_path_factory.mktemp("prompts")
    build("bert", folder / "model")
    texts = docstrings(ROWS)
    for part in range(2):
        rows = range(part * ROWS // 2, (part + 1) * ROWS // 2)
        table = pa.table(
            {
                "text": [texts[row] for row in rows],
                "kind": [KINDS[row % 4] for row in rows],
                "title": [f"title {row}" for row in rows],
                "id": rows,
            }
        )
        (folder / "corpus").mkdir(exist_ok=True)
        pq.write_table(table, folder / f"corpus/{part}.parquet", row_group_size=30)
    return folder


def spec_of(folder: Path, run: Path, **fields: Any) -> Spec:
    """Make a spec of rows with prompts of their own."""
    source = {"path": str(folder / "corpus"), "column": "text", "keep": ["id", "kind", "title"]}
    asked: dict[str, Any] = {"encoder__dtype": "float32", "encoder__prompt_column": "kind"}
    asked |= {"encoder__prompts": PROMPTS, "resources__unit_rows": 20}
    return tiny_spec(str(folder / "model"), source, run, **(asked | fields))


def expected_prompts(rows: range) -> list[str]:
    """Write the prompt of each row out."""
    of = {"query": "query: ", "passage": "passage {all}: ", "": ""}
    return [of.get(KINDS[row % 4], f"title {row}, number {row}: ") for row in rows]


def vectors_of(run: Run) -> Any:
    """Read the vectors by id: (rows, dim)."""
    table = run.open().to_table().sort_by("id")
    return np.array(table.column("embedding").to_pylist(), np.float32)


@pytest.mark.usefixtures("engine")
def test_each_row_by_its_columns(folder: Path, tmp_path: Path) -> None:
    """Vectors are those of prompt and text; replicas and lost units change no byte."""
    run = embed(spec_of(folder, tmp_path / "run", parity__rows=24))
    assert run.report["parity"][0]["min"] > 0.99999
    assert verify(run.path, source=True).ok
    whole = [
        prompt + text for prompt, text in zip(expected_prompts(range(ROWS)), docstrings(ROWS), strict=True)
    ]
    plain = Encoder(str(folder / "model"), threads=1).embed(whole)
    np.testing.assert_allclose(vectors_of(run), plain, atol=1e-5)
    assert Run(run.path).header.model["prompts"]["query"] == "query: "
    before = contents(Path(run.path))
    for lost in sorted((Path(run.path) / "data").rglob("*.parquet"))[1:4]:
        lost.unlink()
    embed(spec_of(folder, tmp_path / "run", parity__rows=24))
    assert contents(Path(run.path)) == before
    other = PROMPTS | {"query": "question: "}
    with pytest.raises(RunError, match=r"encoder\.prompts"):
        embed(spec_of(folder, tmp_path / "run", encoder__prompts=other))


@pytest.mark.usefixtures("engine")
def test_rows_without_a_prompt_are_rejects(folder: Path, tmp_path: Path) -> None:
    """An unknown name, a null, a null in the prompt's columns: each by its reason."""
    (tmp_path / "corpus").mkdir()
    table = {
        "text": ["one", "two", "three", "four", None],
        "kind": ["query", "qurey", None, "titled", "query"],
        "title": ["a", "b", "c", None, "e"],
        "id": range(5),
    }
    pq.write_table(pa.table(table), tmp_path / "corpus/rows.parquet")
    spec = spec_of(folder, tmp_path / "run", max_reject_fraction=1.0, abort_reject_fraction=1.0)
    source = spec.source.model_copy(update={"path": (str(tmp_path / "corpus"),)})
    run = embed(spec.model_copy(update={"source": source}))
    rejects = run.rejects().to_table().to_pylist()
    assert [(reject["_row"], reject["reason"]) for reject in rejects] == [
        (1, "unknown_prompt"),
        (2, "null"),
        (3, "null"),
        (4, "null"),
    ]
    assert rejects[0]["message"] == "column kind holds 'qurey', and prompts has query, passage, titled, "
    assert rejects[1]["message"] == "column kind, which chooses the prompt, is null"
    assert rejects[2]["message"] == "a column in its prompt is null"
    assert verify(run.path, source=True).ok


@pytest.mark.usefixtures("engine")
def test_a_column_of_prompts(folder: Path, tmp_path: Path) -> None:
    """Without names, what the column holds is the prompt itself."""
    run = embed(spec_of(folder, tmp_path / "run", encoder__prompts={}, encoder__prompt_column="title"))
    whole = [f"title {row}{text}" for row, text in enumerate(docstrings(ROWS))]
    np.testing.assert_allclose(
        vectors_of(run), Encoder(str(folder / "model"), threads=1).embed(whole), atol=1e-5
    )


@pytest.mark.usefixtures("engine")
def test_queries_have_a_prompt_too(folder: Path, tmp_path: Path) -> None:
    """That of queries by default, a named one, or a text; what cannot be chosen is refused."""
    run = embed(spec_of(folder, tmp_path / "run"))
    text = docstrings(5)[4]
    near = neighbors(run.path, [text], k=1)
    assert (near.ids[0][0], near.scores[0][0]) == (4, pytest.approx(1, abs=1e-5))
    row = docstrings(6)[5]
    assert neighbors(run.path, [row], k=1, prompt="passage").scores[0][0] == pytest.approx(1, abs=1e-5)
    other = neighbors(run.path, [row], k=1, prompt="passage {all}: ")
    assert other.scores[0][0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(SpecError, match="with columns that a query has not"):
        neighbors(run.path, [text], prompt="titled")
    names = {"q": "query: ", "passage": "passage: ", "titled": "", "": ""}
    table = pq.read_table(folder / "corpus/0.parquet")
    (tmp_path / "corpus").mkdir()
    kinds = pa.array(["q" if kind == "query" else kind for kind in table.column("kind").to_pylist()])
    table = table.set_column(table.schema.get_field_index("kind"), "kind", kinds)
    pq.write_table(table, tmp_path / "corpus/0.parquet")
    spec = spec_of(folder, tmp_path / "unnamed", encoder__prompts=names)
    source = spec.source.model_copy(update={"path": (str(tmp_path / "corpus"),)})
    unnamed = embed(spec.model_copy(update={"source": source}))
    with pytest.raises(SpecError, match="give one: one of q, passage, titled, , or a text"):
        neighbors(unnamed.path, [text])


@pytest.mark.slow
def test_plan_with_a_sample(folder: Path, tmp_path: Path) -> None:
    """The sample goes through the job with its prompts, whose tokens count."""
    plain = {"encoder__prompts": {}, "encoder__prompt_column": None}
    bare, prompted = (predict(spec_of(folder, tmp_path / "run", **fields), most=64) for fields in (plain, {}))
    assert prompted.tokens > bare.tokens


def test_in_memory(folder: Path) -> None:
    """A list of prompts has one for each row; a wrong number of them is refused."""
    encoder = Encoder(str(folder / "model"), threads=1)
    texts, prompts = docstrings(9), [*expected_prompts(range(9))]
    whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    np.testing.assert_allclose(encoder.embed(texts, prompt=prompts), encoder.embed(whole), atol=1e-6)
    with pytest.raises(SourceError, match="8 prompts for 9 rows"):
        encoder.embed(texts, prompt=prompts[1:])
    words = Encoder(str(folder / "model"), family="words", threads=1)
    with pytest.raises(ModelError, match="take no prompt of rows"):
        words.embed(texts, prompt=prompts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"encoder__prompt_column": None}, "name it by prompt_column"),
        ({"encoder__prompt": "query: "}, "give prompt, for every row, or prompt_column, not both"),
        ({"encoder__prompts": {"query": "{"}}, "prompts.query: Single '{' encountered"),
        ({"encoder__prompts": {"query": "{a!r}"}}, "must be a plain column name"),
        ({"encoder__prompts": {"query": "{other}"}}, "'other' must be among source.keep"),
        ({"encoder__prompt_column": "nope"}, "'nope' must be among source.keep"),
        ({"encoder__window": 16}, "go through the model in windows"),
        ({"encoder__family": "words"}, "go through the model in windows"),
        ({"encoder__family": "static"}, "prompt_column"),
    ],
)
def test_refused(fields: dict[str, Any], said: str, folder: Path, tmp_path: Path) -> None:
    """A spec that can't be followed is one sentence, and nothing is written."""
    with pytest.raises(EmbedOpsError, match=said.replace("{", r"\{")) as refused:
        spec_of(folder, tmp_path / "run", **fields)
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()

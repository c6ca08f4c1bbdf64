"""Lists of vectors through the job.

The laws, what other programs read, rejects, lists of words, and words that are asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from corpora import docstrings, write_parquet
from fatal_model import POISON, FatalModel
from tiny_runs import contents, no_session

from embed_ops import Run, embed, postprocess
from embed_ops.embedding.driver import retry
from embed_ops.errors import RunError, StageError
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import Spec, parse_stage

pytestmark = pytest.mark.usefixtures("engine")

OUTPUTS = [
    {"name": "embedding", "normalize": True},
    {"name": "of_windows", "each": "window", "dtype": "float16"},
    {"name": "of_words", "each": "word", "pooling": "first"},
    {"name": "early", "each": "word", "layer": 0, "dim": 8},
]


def spec_of(model: str, source: dict[str, Any], run: Path, **encoder: Any) -> Spec:
    """Make a spec."""
    tree = {
        "source": {"column": "text", "keep": ["id"], **source},
        "encoder": {"model": model, **encoder},
        "sink": {"path": str(run)},
    }
    return Spec.parse(tree | {"parity": {"rows": 8}, "resources": {"unit_rows": 40}})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 200 docstrings, some far longer than the model takes, and three odd texts."""
    folder = tmp_path_factory.mktemp("words") / "in"
    write_parquet(folder, [*docstrings(200), "", "  ", "naïve 😀 中文\u200b"], files=2)
    return folder


@pytest.fixture(scope="module")
def words(engine: str, tiny: str, corpus: Path) -> Run:
    """Embed them: rows, windows and words."""
    return embed(spec_of(tiny, {"path": str(corpus)}, corpus.parent / "run", outputs=OUTPUTS, window=40))


def files_of(run: Run) -> list[str]:
    """List the data files."""
    return [str(file) for file in sorted((Path(run.path) / "data").rglob("*.parquet"))]


def test_lists_keep_the_laws(words: Run, tiny: str, corpus: Path) -> None:
    """Complete, compared with the reference, sliced rightly; a lost unit comes back to the byte.

    Other words are another run.
    """
    assert verify(words.path, source=True).ok
    assert {item["output"]: item["min"] > 0.9999 for item in words.report["parity"]} == {
        str(of["name"]): True for of in OUTPUTS
    }
    assert words.report["rows"] == 203
    assert words.report["truncated"] == 0
    texts = dict(zip(*pq.read_table(corpus).select(["id", "text"]).to_pydict().values(), strict=True))
    rows = words.open().to_table().to_pylist()
    assert max(len(row["of_windows"]) for row in rows) > 3
    for row in rows:
        text = texts[row["id"]]
        assert [
            text[begin:end] for begin, end in zip(row["word_start"], row["word_end"], strict=True)
        ] == row["word"]
        assert len(row["word"]) == len(row["of_words"]) == len(row["early"])
        assert (row["window_start"][0], row["window_end"][-1]) == (0, len(text))
    before = contents(Path(words.path))
    Path(files_of(words)[1]).unlink()
    again = embed(spec_of(tiny, {"path": str(corpus)}, corpus.parent / "run", outputs=OUTPUTS, window=40))
    assert again.report["units_skipped"] > 0
    assert contents(Path(words.path)) == before
    with pytest.raises(RunError, match=r"encoder\.window"):
        embed(
            spec_of(tiny, {"path": str(corpus)}, corpus.parent / "run", outputs=OUTPUTS, window=41),
            session=no_session,
        )


def test_other_programs_read_lists(words: Run) -> None:
    """pandas, Polars and DuckDB see the words, and a vector of the same numbers for each."""
    for file in files_of(words)[:2]:
        table = pq.read_table(file, partitioning=None)
        row = next(place for place, found in enumerate(table["word"].to_pylist()) if len(found) > 2)
        expected = np.array(table["of_words"][row].as_py())
        assert expected.shape == (len(table["word"][row]), 32)
        frame = pd.read_parquet(file, partitioning=None)
        assert list(frame["word"][row]) == table["word"][row].as_py()
        np.testing.assert_array_equal(np.stack(frame["of_words"][row]), expected)
        polars = pl.read_parquet(file, hive_partitioning=False)
        np.testing.assert_array_equal(np.array(polars["of_words"][row].to_list()), expected)
        exploded = duckdb.sql(
            f"SELECT unnest(word), unnest(of_words) FROM (SELECT * FROM read_parquet('{file}') LIMIT 1 "
            f"OFFSET {row})"
        )
        found = exploded.fetchall()
        assert [word for word, _ in found] == table["word"][row].as_py()
        np.testing.assert_array_equal(np.array([vector for _, vector in found]), expected)


def test_lists_that_do_not_fit_are_found(words: Run, tmp_path: Path) -> None:
    """Verify finds a word without a vector, though file and vectors are fine by themselves."""
    from embed_ops.runs.verify.vectors import differences, lists_of

    table = pq.read_table(files_of(words)[0], partitioning=None)
    lists = lists_of(words.spec.encoder)
    assert list(differences(table, lists)) == []
    shorter = [found[:-1] for found in table["word"].to_pylist()]
    broken = table.set_column(
        table.schema.get_field_index("word"), "word", pa.array(shorter, pa.list_(pa.string()))
    )
    assert any("entries in column" in what for what in differences(broken, lists))
    assert any("is missing" in what for what in differences(table.drop_columns(["word_end"]), lists))


@pytest.mark.slow
def test_stages_take_rows_and_refuse_lists(words: Run, tiny: str, corpus: Path, tmp_path: Path) -> None:
    """The vector of a row goes on to stages.

    Lists are refused in a sentence, by name or where there is nothing else.
    """
    stage = parse_stage({"kind": "normalize", "column": "embedding"})
    postprocess(words.path, [stage])
    assert verify(f"{words.path}/stages/normalize").ok
    with pytest.raises(StageError, match="ragged"):
        postprocess(words.path, [parse_stage({"kind": "pca", "dim": 2, "column": "of_words"})])
    run = embed(spec_of(tiny, {"path": str(corpus), "limit": 20}, tmp_path / "run", family="words"))
    with pytest.raises(StageError, match="lists of vectors only"):
        postprocess(run.path, [parse_stage({"kind": "pca", "dim": 2})])


@pytest.mark.slow
def test_lists_of_words_and_targets_of_rows(tiny: str, tmp_path: Path) -> None:
    """Tokenised corpora in Parquet and JSONL give the same vectors.

    A column names the words to keep; nulls are rejects.
    """
    texts = [text.split()[:60] for text in docstrings(30)]
    rows = [{"words": words, "want": words[0].upper()} for words in texts]
    rows += [{"words": None, "want": "x"}, {"words": ["a", None], "want": "a"}, {"words": [], "want": None}]
    schema = pa.schema([("words", pa.list_(pa.string())), ("want", pa.string())])
    for kind in ("parquet", "jsonl"):
        (tmp_path / "corpus" / kind).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "corpus" / "parquet" / "a.parquet")
    (tmp_path / "corpus" / "jsonl" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = []
    for kind in ("parquet", "jsonl"):
        source = {
            "path": str(tmp_path / "corpus" / kind),
            "kind": kind,
            "column": "words",
            "keep": ["want"],
            "modality": "words",
        }
        spec = spec_of(tiny, source, tmp_path / kind, family="words", targets_column="want")
        run = embed(spec.model_copy(update={"max_reject_fraction": 0.5}))
        assert verify(run.path, source=True).ok
        assert len(run.rejects().to_table()) == 2
        found.append(run.open().to_table(columns=["word", "word_index", "embedding", "want"]).to_pylist())
    assert found[0] == found[1]
    for row in found[0]:
        assert row["want"] is None or all(
            word.strip(".,:()").lower() == row["want"].strip(".,:()").lower() for word in row["word"]
        )
        assert row["want"] is None or 0 in row["word_index"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray"], indirect=True)
def test_a_row_that_kills_is_found_among_windows(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long text of which one window kills its worker is a reject.

    Every other row has its words.
    """
    monkeypatch.setenv("EMBED_OPS_TRUST_REMOTE_CODE", "1")
    fatal = FatalModel(tmp_path)
    texts = docstrings(30)
    texts[7] = "word " * 200 + POISON + " word" * 200
    write_parquet(tmp_path / "corpus", texts, files=1)
    fatal.order("SIGKILL")
    spec = spec_of(
        str(fatal.path),
        {"path": str(tmp_path / "corpus")},
        tmp_path / "run",
        family="words",
        trust_remote_code=True,
        window=40,
    )
    run = embed(
        spec.model_copy(
            update={"max_reject_fraction": 0.5, "parity": spec.parity.model_copy(update={"rows": 4})}
        )
    )
    assert verify(run.path).ok
    assert run.report["rows"] == 29
    assert run.rejects().to_table().to_pylist()[0]["reason"] == "crashed"
    fatal.obey_nothing()
    again = retry(run.path)
    assert verify(again.path).ok
    assert again.report["rows"] == 30
    assert len(again.open().to_table(filter=pads.field("id") == 7)["word"][0]) > 400

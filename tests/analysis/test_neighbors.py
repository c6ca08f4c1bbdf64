"""Nearest rows of a run: against brute force, through stages, by clusters, for every row.

And what can't be asked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from brute_force import brute
from made_run import make_run, mixture
from stage_runs import invoke, rows_of
from tiny_runs import contents, no_session

from embed_ops import Run, postprocess
from embed_ops.analysis.neighbors import neighbors
from embed_ops.analysis.shown import kept_of
from embed_ops.errors import EmbedOpsError, ModelError, SpecError, StageError
from embed_ops.numerics.exact import norms_of
from embed_ops.postprocessing.search import rows_at
from embed_ops.runs.models import load_model
from embed_ops.runs.rows import RunRows
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import parse_stage

ROWS, DIM = 9000, 16
DRAW = mixture(DIM, 30, spread=0.3)


def draw(first: int, end: int) -> np.ndarray:
    """Give rows of a mixture; every 500th is a copy of row 7, and row 20 is zeros."""
    x = DRAW(first, end).copy()
    for place, row in enumerate(range(first, end)):
        if row % 500 == 7:
            x[place] = DRAW(7, 8)[0]
        if row == 20:
            x[place] = 0
    return x


def names(first: int, end: int) -> dict[str, pa.Array]:
    """Name rows by their index."""
    return {"name": pa.array([f"n{row}" for row in range(first, end)])}


@pytest.fixture(scope="module")
def run(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run, and cluster it."""
    path = tmp_path_factory.mktemp("neighbors") / "run"
    make_run(str(path), [5000, 0, 4000], draw, unit_rows=1500, keep=names)
    postprocess(str(path), [parse_stage({"kind": "normalize"}), parse_stage({"kind": "kmeans", "k": 30})])
    return path


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_queries_are_those_of_brute_force(run: Path, metric: str) -> None:
    """Vectors and rows as queries: ids, ties and scores of sorting all pairs, without a session.

    Kept columns in their order.
    """
    x = rows_of(run)
    ids = np.arange(len(x))
    asked = draw(100, 140) + np.float32(0.01)
    found = neighbors(str(run), asked, 12, metric=metric, session=no_session)  # type: ignore[arg-type]
    expected = brute(asked, x, ids, 12, metric)
    np.testing.assert_array_equal(found.ids, expected[0])
    np.testing.assert_array_equal(found.scores, expected[1])
    assert (found.rows, found.recall, found.zeros) == (ROWS, None, int(metric == "cosine"))
    chosen = np.array([7, 5000, 8999, 20])
    found = neighbors(str(run), chosen, 15, metric=metric)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.ids, brute(x[chosen], x, ids, 15, metric, chosen)[0])
    some = found.ids[0][::-1]
    kept = kept_of(RunRows(Run(str(run))._dir.root), some)
    assert kept["row"].to_pylist() == some.tolist()
    assert kept["name"].to_pylist() == [f"n{row}" for row in some.tolist()]


def test_every_row(run: Path) -> None:
    """All pairs as a stage: brute force without itself, verified, resumed to the byte."""
    code, said = invoke("neighbors", run, "--all", "-k", 6, "--progress", "none")
    assert code == 0, said
    stage = run / "stages/neighbors"
    assert verify(str(stage)).differences == []
    x, ids = rows_of(run), np.arange(ROWS)
    table = pa.concat_tables(
        pq.read_table(stage / "data" / f"{record.unit}.parquet", partitioning=None)
        for record in RunRows(Run(str(run))._dir.root).records
    )
    some = np.r_[0:40, 490:520, 8990:9000]
    expected = brute(x[some], x, ids, 6, "cosine", some)
    for place, row in enumerate(some.tolist()):
        wanted = expected[0][place] >= 0
        assert table["neighbors"][row].as_py() == expected[0][place][wanted].tolist()
        np.testing.assert_allclose(table["scores"][row].as_py(), expected[1][place][wanted], rtol=1e-6)
    assert table["neighbors"][20].as_py() == []
    before = contents(stage)
    next((stage / "data").rglob("*.parquet")).unlink()
    assert invoke("neighbors", run, "--all", "-k", 6, "--progress", "none")[0] == 0
    assert contents(stage) == before
    code, said = invoke("neighbors", run, "--all", "-k", 7, "--progress", "none")
    assert code == 2
    assert "stage.k" in said


def test_clusters_save_work(run: Path) -> None:
    """A few clusters of many find nearly all neighbours at a share of the products.

    All clusters find all of them.
    """
    kmeans = f"{run}/stages/kmeans"
    x = rows_of(run / "stages/normalize")
    chosen = np.arange(0, ROWS, 45)
    few, every = (neighbors(kmeans, chosen, 10, probe=probe) for probe in (3, 30))
    assert few.recall is not None
    assert few.recall >= 0.95
    assert few.work < 0.2
    expected = brute(x[chosen], x, np.arange(ROWS), 10, "cosine", chosen)[0]
    np.testing.assert_array_equal(every.ids, expected)
    assert every.recall == 1.0
    measured = np.mean(
        [
            len(set(mine) & set(theirs)) / 10
            for mine, theirs in zip(few.ids.tolist(), expected.tolist(), strict=True)
        ]
    )
    assert few.recall == pytest.approx(measured, abs=1e-9)
    stage = postprocess(kmeans, [parse_stage({"kind": "neighbors", "k": 5, "probe": 3})])[0]
    assert verify(stage.path).ok
    told = stage.report["model"]
    assert told["recall"] >= 0.95
    assert told["work"] < 0.2


def test_texts_go_through_model_and_stages(
    engine: str, minilm_run: tuple[Run, list[str]], tmp_path: Path
) -> None:
    """A text of the corpus finds its own row first, on the run and on its reduced vectors.

    The command writes what it shows.
    """
    run, texts = minilm_run
    stages = postprocess(
        run.path, [parse_stage({"kind": "normalize"}), parse_stage({"kind": "pca", "dim": 40})]
    )
    asked = [17, 400, 999]
    for path in (run.path, stages[-1].path):
        found = neighbors(path, [texts[row] for row in asked], 3)
        assert np.all(found.scores[:, 0] > 0.9999)
        assert [texts[row] for row in found.ids[:, 0].tolist()] == [texts[row] for row in asked]
    whole = RunRows(run._dir.root)
    embedded = rows_at(whole, whole.vector(None), np.array(asked))
    x = load_model(stages[1].path).transform(load_model(stages[0].path).transform(embedded))
    by_vector = neighbors(stages[-1].path, x.astype(np.float32), 3)
    np.testing.assert_array_equal(by_vector.ids[:, 1:], found.ids[:, 1:])
    code, said = invoke(
        "neighbors",
        run.path,
        "--text",
        texts[17],
        "-k",
        2,
        "--output",
        tmp_path / "found.jsonl",
        "--progress",
        "none",
    )
    assert code == 0, said
    assert "1,000 rows, all rows compared" in said
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rows", "9000"], "row 9000 is not in the run, which has rows 0 to 8999"),
        (["--rows", "a"], "give indexes of rows"),
        (["--rows", "1", "--all"], "give queries in one way"),
        ([], "give queries in one way"),
        (["--rows", "1", "--probe", "2"], "give it the run of a kmeans stage"),
        (["--rows", "1", "--column", "nothing"], "no column 'nothing'"),
        (["--rows", "1", "--show", "nothing"], "no column 'nothing' was kept; there are part, name"),
        (["--texts", "/nowhere/q.txt"], "can't be read"),
        (["--rows", "1", "--output", "found.xml"], "ends in .parquet, .csv or .jsonl"),
    ],
)
def test_what_can_not_be_asked(run: Path, words: list[str], says: str) -> None:
    """Each is one sentence and exit code 2."""
    code, said = invoke("neighbors", run, *words, "--progress", "none")
    assert (code, says in said) == (2, True), said


def test_queries_that_do_not_fit(run: Path, minilm_run: tuple[Run, list[str]], tmp_path: Path) -> None:
    """Another width, images to a model of texts, a null text, a run that is not there."""
    with pytest.raises(SpecError, match=r"shape \(queries, 16\)"):
        neighbors(str(run), np.zeros((2, 3), np.float32))
    with pytest.raises(ModelError, match="embeds texts, and the queries are images"):
        neighbors(minilm_run[0].path, [b"not an image"])
    reduced = postprocess(
        f"{run}/stages/kmeans", [parse_stage({"kind": "pca", "dim": 4})], output=f"{run}/stages/reduced"
    )[0]
    with pytest.raises(StageError, match="is searched; leave probe out"):
        neighbors(reduced.path, np.array([1]), probe=2)
    with pytest.raises(EmbedOpsError, match="no run here"):
        neighbors(str(tmp_path), np.array([1]))
    assert norms_of(np.zeros((1, 3), np.float32)).tolist() == [0]


def test_histories_through_the_command(run: Path, tmp_path: Path) -> None:
    """Users of a file are recommended rows that they do not have, judged beside popularity.

    A file without the columns is refused.
    """
    pairs = [(f"u{user}", f"n{row}") for user in range(6) for row in range(user * 50 + 30, user * 50 + 35)]
    (tmp_path / "history.csv").write_text("who,name\n" + "\n".join(",".join(pair) for pair in pairs) + "\n")
    words = [
        "neighbors",
        run,
        "--history",
        tmp_path / "history.csv",
        "--user",
        "who",
        "--item",
        "name",
        "-k",
        3,
        "--progress",
        "none",
    ]
    code, said = invoke(*words, "--hold-out", "--output", tmp_path / "found.parquet")
    assert code == 0, said
    assert "6 users; 0 items of the history are not in the run" in said
    for judge in ("embedding and popularity: hit rate", "embedding: hit rate", "popularity: hit rate"):
        assert judge in said
    assert invoke(*words, "--output", tmp_path / "all.parquet")[0] == 0
    found = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert len(found) == 18
    assert not {(line["query"], line["name"]) for line in found} & set(pairs)
    words[words.index("who")] = "nobody"
    code, said = invoke(*words)
    assert (code, "no column 'nobody': 'nobody' and 'name' are looked for, there are " in said) == (
        2,
        True,
    ), said

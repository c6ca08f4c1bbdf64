"""A run that was embedded anew, or retried, under its stages: no row is ever joined with another's.

The attacker is time: the corpus changes, the run follows it, and the stages are those of before.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stage_runs import invoke

from embed_ops import Run, embed, load_model, postprocess
from embed_ops.analysis.evaluate import evaluate, save
from embed_ops.analysis.export import export
from embed_ops.analysis.neighbors import neighbors
from embed_ops.embedding.driver import retry
from embed_ops.errors import RunError, StageError
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.rows import RunRows
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import Spec, parse_stage
from embed_ops.storage.files import locate

pytestmark = pytest.mark.usefixtures("engine")

ROWS, DIM = 40, 8
RNG = np.random.default_rng(0)
WORDS = [f"w{number:02d}" for number in range(ROWS)]
X = (RNG.normal(size=(ROWS, DIM)) + 4 * np.eye(DIM)[np.arange(ROWS) % 2]).astype(np.float32)
SECTIONS: list[dict[str, Any]] = [
    {"kind": "normalize", "name": "rows", "input": "embed"},
    {"kind": "pca", "dim": 3, "input": "embed"},
    {"kind": "quantize", "input": "embed"},
    {"kind": "kmeans", "k": 2, "by_cluster": True, "input": "embed"},
    {"kind": "dedup", "input": "kmeans"},
    {"kind": "neighbors", "k": 2, "input": "embed"},
]


def table_of(path: Path, x: np.ndarray) -> Path:
    """Write a table of word vectors."""
    lines = [
        f"{word} {' '.join(f'{value:.6f}' for value in row)}" for word, row in zip(WORDS, x, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write(corpus: Path, name: str, words: list[str | None]) -> None:
    """Write a source file whose time of change is later than any before."""
    (corpus / name).parent.mkdir(parents=True, exist_ok=True)
    items = [f"item of {word}" for word in words]
    kinds = [str(WORDS.index(word) % 2) if word in WORDS else None for word in words]
    pq.write_table(
        pa.table({"text": pa.array(words, pa.string()), "item": items, "cls": kinds}), corpus / name
    )
    write.clock += 10  # type: ignore[attr-defined]
    os.utime(corpus / name, (write.clock, write.clock))  # type: ignore[attr-defined]


write.clock = 1_700_000_000  # type: ignore[attr-defined]


def spec_of(root: Path, sections: list[dict[str, Any]] | None = None) -> Spec:
    """Make the spec of a run of word vectors that follows its corpus."""
    return Spec.parse(
        {
            "source": {
                "path": str(root / "corpus"),
                "column": "text",
                "keep": ["item", "cls"],
                "on_change": "re-embed",
            },
            "encoder": {"family": "static", "model": str(root / "table.txt")},
            "sink": {"path": str(root / "run")},
            "parity": {"rows": 0},
            "stage": sections or [],
        }
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a finished run of two files, with a stage."""
    table_of(tmp_path / "table.txt", X)
    write(tmp_path / "corpus", "one/a.parquet", list(WORDS[:25]))
    write(tmp_path / "corpus", "two/b.parquet", list(WORDS[25:]))
    spec = spec_of(tmp_path, SECTIONS[:2])
    embed(spec)
    postprocess(spec)
    return tmp_path


def change(root: Path, words: list[str | None]) -> None:
    """Let a source file change, and the run follow it."""
    write(root / "corpus", "one/a.parquet", words)
    embed(spec_of(root))


CHANGES: dict[str, list[str | None]] = {
    "reversed": list(WORDS[:25][::-1]),
    "rotated": [*WORDS[1:25], WORDS[0]],
    "shorter": list(WORDS[:18]),
    "longer": [*WORDS[:25], "w30", "w31"],
    "empty": [],
    "with a reject": [*WORDS[:12], None, *WORDS[12:24]],
}


def rows_are_their_own(stage: str) -> None:
    """Each row's vector is that of the item that its ancestor keeps for the same place."""
    rows = RunRows(locate(stage))
    run = Run(str(rows.lineage[-1][0].path))
    items = {
        (source, row): item
        for source, row, item in zip(
            *(run.open().to_table()[name].to_pylist() for name in ("_source", "_row", "item")), strict=True
        )
    }
    here = Run(stage).open().to_table()
    assert len(here) == len(items)
    model = load_model(stage)
    expected = dict(zip([f"item of {word}" for word in WORDS], model.transform(X), strict=True))
    got = vectors_of(here["embedding"])
    for source, row, vector in zip(here["_source"].to_pylist(), here["_row"].to_pylist(), got, strict=True):
        np.testing.assert_allclose(vector, expected[items[source, row]], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("reversed", "with a reject") else pytest.param(name, marks=pytest.mark.slow)
        for name in CHANGES
    ],
)
def test_stages_of_an_earlier_state_are_refused_and_mended(name: str, root: Path) -> None:
    """Every reader refuses, `verify` says it, and the same command mends only what has changed."""
    # Some stages do for the smaller changes.
    sections = SECTIONS if name == "reversed" else SECTIONS[:2]
    names = [section.get("name", section["kind"]) for section in sections]
    postprocess(spec_of(root, sections))
    before = {path: path.stat().st_mtime_ns for path in (root / "run/stages/pca/data").rglob("b.*")}
    change(root, CHANGES[name])
    for stage in names:
        place = str(root / "run/stages" / stage)
        with pytest.raises(RunError, match=r"has changed since: 1 of its 2 units .*the first is one/a"):
            RunRows(locate(place))
        told = [difference.what for difference in verify(place).differences]
        assert len(told) == 1
        of_a_stage = stage == "dedup"
        assert ("an ancestor is not as it was" if of_a_stage else "was made of another state of") in told[0]
    place = str(root / "run/stages/rows")
    with pytest.raises(RunError, match="has changed since"):
        export(place, str(root / "npy"), "npy")
    with pytest.raises(RunError, match="has changed since"):
        neighbors(place, np.array([3]), 1)
    for words in (
        ["evaluate", place, "--label", "cls"],
        ["neighbors", place, "--rows", "3"],
        ["report", place],
    ):
        code, said = invoke(*words)
        assert (code, "has changed since" in said) == (2, True), said
    stages = postprocess(spec_of(root, sections))
    for stage in stages:
        assert verify(stage.path, source=True).differences == []
    rows_are_their_own(str(root / "run/stages/rows"))
    rows_are_their_own(str(root / "run/stages/pca"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [stage.report["model_of_earlier_input"] for stage in stages] == [
        stage not in ("dedup", "neighbors") for stage in names
    ]
    assert all(stage.report["units_skipped"] == 1 for stage in stages[:4])
    if "kmeans" not in names:
        return
    # The copy by cluster has the rows of today.
    copies = pq.read_table(root / "run/stages/kmeans/clusters")
    run = Run(str(root / "run")).open().to_table()
    assert sorted(zip(copies["_source"].to_pylist(), copies["_row"].to_pylist(), strict=True)) == sorted(
        zip(run["_source"].to_pylist(), run["_row"].to_pylist(), strict=True)
    )


@pytest.mark.slow
def test_what_a_fresh_run_would_give(root: Path, tmp_path: Path) -> None:
    """Stages over the whole run are those of a run that never was another; `refit` makes all so."""
    change(root, CHANGES["reversed"])
    whole = [section for section in SECTIONS if section["kind"] == "neighbors"]
    mended = postprocess(spec_of(root, whole))[0]
    fresh = postprocess(str(root / "run"), [parse_stage(whole[0])], output=str(root / "fresh"))[0]
    for name in ("neighbors", "scores"):
        assert mended.open().to_table()[name] == fresh.open().to_table()[name]
    again = postprocess(spec_of(root, SECTIONS), refit=True)
    assert not any(stage.report["model_of_earlier_input"] for stage in again)


def test_units_that_are_gone(root: Path) -> None:
    """A file that is deleted takes its units out of the stage too."""
    (root / "corpus/two/b.parquet").unlink()
    assert embed(spec_of(root)).report["rows"] == 25
    stage = root / "run/stages/rows"
    with pytest.raises(RunError, match="has changed since"):
        RunRows(locate(str(stage)))
    assert postprocess(spec_of(root, SECTIONS[:1]))[0].report["rows"] == 25
    assert verify(str(stage)).differences == []
    assert [path.name for path in (stage / "data").rglob("*.parquet")] == ["a.parquet.000000000000.parquet"]
    rows_are_their_own(str(stage))


def test_after_a_retry(tmp_path: Path) -> None:
    """A unit whose rejects came back has more rows: its stage is of before until it runs again."""
    table_of(tmp_path / "table.txt", X)
    lines = [json.dumps({"text": word, "item": f"item of {word}"}) for word in WORDS]
    (tmp_path / "corpus").mkdir()
    file = tmp_path / "corpus/a.jsonl"
    file.write_text("\n".join(lines).replace(lines[3], "x" * len(lines[3])))
    stamp = file.stat()
    spec = Spec.parse(
        {
            "source": {"kind": "jsonl", "path": str(file), "column": "text", "keep": ["item"]},
            "encoder": {"family": "static", "model": str(tmp_path / "table.txt")},
            "sink": {"path": str(tmp_path / "run")},
            "parity": {"rows": 0},
            "max_reject_fraction": 1.0,
        }
    )
    run = embed(spec)
    assert run.report["rejected"] == 1
    section = parse_stage({"kind": "normalize"})
    stage = postprocess(run.path, [section])[0]
    file.write_text("\n".join(lines))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert retry(run.path).report["rows"] == ROWS
    for refused in (
        lambda: RunRows(locate(stage.path)),
        lambda: export(stage.path, str(tmp_path / "n"), "npy"),
    ):
        with pytest.raises(RunError, match="has changed since"):
            refused()
    assert not verify(stage.path).ok
    assert postprocess(run.path, [section])[0].report["rows"] == ROWS
    rows_are_their_own(stage.path)


def test_a_stage_of_a_stage(root: Path) -> None:
    """An ancestor that changed is found through all the runs between."""
    postprocess(str(root / "run/stages/rows"), [parse_stage({"kind": "truncate", "dim": 4})])
    deep = str(root / "run/stages/rows/stages/truncate")
    change(root, CHANGES["reversed"])
    with pytest.raises(RunError, match=r"stages/rows: .*/run has changed since"):
        RunRows(locate(deep))
    postprocess(spec_of(root, SECTIONS[:1]))
    with pytest.raises(RunError, match=r"stages/truncate: .*/rows has changed since"):
        RunRows(locate(deep))
    postprocess(str(root / "run/stages/rows"), [parse_stage({"kind": "truncate", "dim": 4})])
    rows_are_their_own(str(root / "run/stages/rows"))
    assert verify(deep).differences == []


def test_a_parent_that_changes_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that follows its corpus while a stage reads it leaves no finished stage behind."""
    from embed_ops.postprocessing import driver

    model_calls = driver.model_calls
    shutil.rmtree(root / "run/stages")

    def changing(*arguments: Any) -> Any:
        change(root, CHANGES["rotated"])
        return model_calls(*arguments)

    monkeypatch.setattr(driver, "model_calls", changing)
    with pytest.raises(RunError, match="has changed while rows was computed"):
        postprocess(spec_of(root, SECTIONS[:1]))
    monkeypatch.undo()
    assert Run(str(root / "run/stages/rows")).status == "stopped"
    stage = postprocess(spec_of(root, SECTIONS[:1]))[0]
    rows_are_their_own(stage.path)


def test_a_lost_record_still_says_what_it_was_made_of(root: Path) -> None:
    """The footer of a unit names the state of its parent, as its record does."""
    stage = root / "run/stages/pca"
    wanted = {record.unit: record.made_of for record in Run(str(root / "run/stages/pca")).records().values()}
    assert all(wanted.values())
    shutil.rmtree(stage / "manifest")
    postprocess(spec_of(root, SECTIONS[:3]))
    assert {record.unit: record.made_of for record in Run(str(stage)).records().values()} == wanted
    shutil.rmtree(stage / "manifest")
    change(root, CHANGES["reversed"])
    mended = postprocess(spec_of(root, SECTIONS[1:2]))[0]
    assert mended.report["units_skipped"] == 1
    rows_are_their_own(mended.path)


def test_models_of_another_space(root: Path, tmp_path: Path) -> None:
    """A probe and a stage fitted on one table say nothing of the vectors of another as wide."""
    other = tmp_path / "other"
    other.mkdir()
    turned = X @ np.linalg.qr(RNG.normal(size=(DIM, DIM)))[0]
    table_of(other / "table.txt", turned.astype(np.float32))
    shutil.copytree(root / "corpus", other / "corpus")
    embed(spec_of(other))
    rows = RunRows(locate(str(root / "run")))
    save(str(root / "probe"), *evaluate(rows, rows.vector(None), "cls"))
    section = parse_stage({"kind": "classify", "probe": str(root / "probe")})
    with pytest.raises(StageError, match="fitted on vectors of another model"):
        postprocess(str(other / "run"), [section])
    assert not (other / "run/stages").exists()
    pca = parse_stage({"kind": "pca", "dim": 3})
    model = str(root / "run/stages/pca")
    with pytest.raises(StageError, match="--any-space applies it all the same"):
        postprocess(str(other / "run"), [pca], model=model)
    # Fitted on normalised vectors, asked for raw ones of the same model.
    unit = parse_stage({"kind": "pca", "dim": 3, "name": "unit"})
    postprocess(str(root / "run/stages/rows"), [unit], output=str(root / "unit"))
    with pytest.raises(StageError, match="fitted on vectors of another model, or of other settings"):
        postprocess(str(root / "run"), [pca], model=str(root / "unit"), output=str(root / "no"))
    # The same model on other rows, and whoever says so.
    postprocess(str(root / "run"), [section])
    applied = postprocess(str(other / "run"), [pca], model=model, any_space=True)[0]
    assert postprocess(str(other / "run"), [pca], model=model)[0].path == applied.path
    code, said = invoke("classify", other / "run", "--model", root / "probe", "--progress", "none")
    assert code == 2
    assert "another model" in said
    code, said = invoke(
        "classify", other / "run", "--model", root / "probe", "--any-space", "--progress", "none"
    )
    assert code == 0, said


@pytest.mark.parametrize(
    ("fitted", "asked", "named"),
    [
        ({"kind": "pca", "dim": 3}, {"dim": 5}, "dim = 3, and dim = 5"),
        pytest.param(
            {"kind": "pca", "dim": 0.9}, {"dim": 3}, "dim = 0.9, and dim = 3", marks=pytest.mark.slow
        ),
        pytest.param(
            {"kind": "quantize", "to": "int8"},
            {"to": "ubinary"},
            "to = 'int8', and to = 'ubinary'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"kind": "normalize", "method": "standardize"},
            {"method": "l2"},
            "method = 'standardize'",
            marks=pytest.mark.slow,
        ),
        pytest.param({"kind": "kmeans", "k": 3}, {"k": 2}, "k = 3, and k = 2", marks=pytest.mark.slow),
        pytest.param(
            {"kind": "project", "dim": 4, "method": "sparse"},
            {"dim": 4, "method": "gaussian"},
            "method",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"kind": "truncate", "dim": 4, "normalize": False},
            {"dim": 4, "normalize": True},
            "normalize",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"kind": "whiten", "method": "zca"}, {"method": "pca"}, "method = 'zca'", marks=pytest.mark.slow
        ),
        pytest.param(
            {"kind": "center", "components": 2}, {"components": 1}, "components = 2", marks=pytest.mark.slow
        ),
    ],
)
def test_fields_that_contradict_a_model(
    fitted: dict[str, Any], asked: dict[str, Any], named: str, root: Path
) -> None:
    """What is asked for is what the model does, and what is not asked for is taken from it."""
    run = str(root / "run")
    postprocess(run, [parse_stage(fitted)], output=str(root / "fitted"))
    with pytest.raises(StageError, match=named):
        postprocess(
            run,
            [parse_stage({"kind": fitted["kind"], **asked})],
            output=str(root / "no"),
            model=f"{root}/fitted",
        )
    assert not (root / "no").exists()
    needed = {name: fitted[name] for name in ("kind", "dim", "k") if name in fitted}
    postprocess(run, [parse_stage(needed)], output=str(root / "yes"), model=str(root / "fitted"))
    told = json.loads((root / "yes/run.json").read_text())["spec"]
    assert {name: told[name] for name in fitted} == fitted
    for file in (root / "fitted/data").rglob("*.parquet"):
        twin = root / "yes/data" / file.relative_to(root / "fitted/data")
        assert pq.read_table(file, partitioning=None) == pq.read_table(twin, partitioning=None)


def test_kept_columns_follow_the_run_below(root: Path) -> None:
    """A column that alone has changed makes the stages that copy it stale, however far they are."""
    run, place = str(root / "run"), root / "corpus/one/a.parquet"
    sections = [{"kind": "normalize"}, {"kind": "kmeans", "k": 2, "keep": ["item"]}]
    kmeans = postprocess(run, [parse_stage(section) for section in sections])[-1].path
    table = pq.read_table(place, partitioning=None)
    items = pa.array([f"another {item}" for item in table["item"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("item"), "item", items), place)
    os.utime(place, (1_800_000_000, 1_800_000_000))
    embed(spec_of(root))
    with pytest.raises(RunError, match="has changed since"):
        Run(kmeans).open()
    postprocess(run, [parse_stage(section) for section in sections])
    names = ["_source", "_row", "item"]
    here, below = (
        pq.read_table(file, columns=names, partitioning=None).to_pylist()
        for file in (next((Path(path) / "data/one").rglob("*.parquet")) for path in (kmeans, run))
    )
    assert here == below
    assert here[0]["item"].startswith("another item of")
    assert verify(kmeans).ok

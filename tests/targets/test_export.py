"""Exports against the run, stopped and gone on."""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture

from embed_ops.analysis import export as module
from embed_ops.analysis.export import export
from embed_ops.errors import PackageError, SpecError, StorageError
from embed_ops.runs.columns import VectorColumn, read_unit
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec
from embed_ops.targets.base import Contents, Options, TargetUnit
from embed_ops.targets.registry import TARGETS, TargetKind
from embed_ops.targets.webdataset import WebDatasetShards

DIM, ROWS = 8, 700
DRAW = mixture(DIM, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run."""
    path = tmp_path_factory.mktemp("export") / "run"
    make_run(
        str(path),
        [400, 0, 300],
        DRAW,
        unit_rows=150,
        keep=lambda first, end: {"id": pa.array(range(first, end))},
    )
    return path


def rows_of(folder: Path) -> pa.Table:
    """Read the rows beside an export, in order."""
    return pa.concat_tables(pq.read_table(file) for file in sorted((folder / "rows").glob("*.parquet")))


def test_npy(run: Path, tmp_path: Path) -> None:
    """One file with all vectors in order, and the rows beside it; a second call does nothing."""
    assert export(str(run), str(tmp_path / "out"), "npy") == ROWS
    np.testing.assert_array_equal(np.load(tmp_path / "out/vectors.npy"), DRAW(0, ROWS))
    rows = rows_of(tmp_path / "out")
    assert rows["row"].to_pylist() == rows["id"].to_pylist() == list(range(ROWS))
    before = (tmp_path / "out/vectors.npy").stat().st_mtime_ns
    export(str(run), str(tmp_path / "out"), "npy")
    assert (tmp_path / "out/vectors.npy").stat().st_mtime_ns == before


INSTALLED = [
    name for name, kind in TARGETS.items() if not kind.package or importlib.util.find_spec(kind.package)
]


def written(place: Path) -> dict[str, Any]:
    """Read all that an export wrote, by path: bytes, and the table of a Lance dataset."""
    if (place / "_versions").exists():
        import lance

        table = lance.dataset(str(place)).to_table()
        return {name: table[name].to_pylist() for name in table.column_names}
    return {
        str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("unit", range(5))
@pytest.mark.parametrize("to", INSTALLED)
def test_stopped_and_gone_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, unit: int
) -> None:
    """A disk that is full after any number of units leaves nothing partial under a final name.

    The same call ends with what a quiet one writes, and reads no unit again that was there.
    """
    export(str(run), str(tmp_path / "quiet"), to)
    read: list[str] = []

    def failing(vectors: VectorColumn, name: str, rows: int) -> Any:
        if len(read) == unit:
            raise OSError(28, "No space left on device")
        read.append(name)
        return read_unit(vectors, name, rows)

    monkeypatch.setattr(module, "read_unit", failing)
    with pytest.raises(StorageError, match="No space left"):
        export(str(run), str(tmp_path / "out"), to)
    assert not (tmp_path / "out/vectors.npy").exists()
    assert not (tmp_path / "out/index.faiss").exists()
    before = set(read)

    def counting(vectors: VectorColumn, name: str, rows: int) -> Any:
        assert rows == 0 or name not in before
        return read_unit(vectors, name, rows)

    monkeypatch.setattr(module, "read_unit", counting)
    assert export(str(run), str(tmp_path / "out"), to) == ROWS
    assert written(tmp_path / "out") == written(tmp_path / "quiet")


@pytest.mark.parametrize("to", INSTALLED)
def test_another_run_is_refused(run: Path, tmp_path: Path, to: str) -> None:
    """A place keeps the run and the form that it is of."""
    make_run(str(tmp_path / "run"), [400, 0, 300], mixture(DIM, 5), unit_rows=150)
    export(str(run), str(tmp_path / "out"), to)
    before = written(tmp_path / "out")
    with pytest.raises(SpecError, match="choose another folder"):
        export(str(tmp_path / "run"), str(tmp_path / "out"), to)
    with pytest.raises(SpecError, match="choose another folder"):
        export(str(run), str(tmp_path / "out"), to, metric="dot")
    assert written(tmp_path / "out") == before


@pytest.mark.parametrize("to", INSTALLED)
def test_what_is_not_an_export_is_left_alone(run: Path, tmp_path: Path, to: str) -> None:
    """A folder with other things is refused and keeps them; an empty one is taken."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(SpecError, match="choose another folder"):
        export(str(run), str(tmp_path / "full"), to)
    assert written(tmp_path / "full") == {"file": b"mine"}
    (tmp_path / "empty").mkdir()
    assert export(str(run), str(tmp_path / "empty"), to) == ROWS


def test_unknown_kinds_and_missing_packages(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one sentence that says what there is, or what to install, and nothing is written."""
    with pytest.raises(SpecError, match="--format hdf5: there is no such kind; there are npy, faiss"):
        export(str(run), str(tmp_path / "out"), "hdf5")
    missing = TargetKind("nowhere:Table", "no_such_package", "tables")
    monkeypatch.setitem(TARGETS, "tables", missing)
    with pytest.raises(PackageError, match=r"--format tables needs .* 'embed-ops\[tables\]'"):
        export(str(run), str(tmp_path / "out"), "tables")
    assert not (tmp_path / "out").exists()


def test_shards(run: Path, tmp_path: Path) -> None:
    """Shards hold every row once and in order, for a plain tar reader and for our own source."""
    export(str(run), str(tmp_path / "out"), "webdataset")
    vectors, told = [], []
    for shard in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                if member.name.endswith(".npy"):
                    vectors.append(np.load(io.BytesIO(content.read())))
                else:
                    told.append(json.loads(content.read()))
    np.testing.assert_array_equal(np.stack(vectors), DRAW(0, ROWS))
    assert [row["row"] for row in told] == [row["id"] for row in told] == list(range(ROWS))
    source = {"kind": "webdataset", "path": str(tmp_path / "out"), "column": "json._source"}
    spec = Spec.parse({"source": source, "encoder": {"model": "none"}, "sink": {"path": "none"}})
    corpus = Corpus.open(spec.source)
    assert corpus.head(corpus.plan(), 3) == [row["_source"] for row in told[:3]]


def test_values_that_json_lacks(tmp_path: Path) -> None:
    """Bytes are base64, times text, and what is no number is null."""
    target = WebDatasetShards(str(tmp_path / "out"))
    unit = TargetUnit("part/0", 0, 0, 1)
    target.begin(Contents("digest", "embedding", 2, (unit,)), Options())
    day = datetime.date(2024, 2, 29)
    kept = {"row": [0], "raw": [b"\x00\xff"], "day": [day], "score": [math.nan], "tags": [["a", "é"]]}
    target.put(unit, np.ones((1, 2), np.float32), pa.table(kept))
    with tarfile.open(tmp_path / "out/000000.tar") as tar:
        content = tar.extractfile("000000000000.json")
        assert content is not None
        told = json.loads(content.read())
    assert told == {"row": 0, "raw": "AP8=", "day": "2024-02-29", "score": None, "tags": ["a", "é"]}


def test_an_index_finds_what_numpy_finds(run: Path, tmp_path: Path) -> None:
    """A flat index gives the cosines of numpy; a trained one is trained."""
    faiss = pytest.importorskip("faiss")
    x = DRAW(0, ROWS)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    export(str(run), str(tmp_path / "flat"), "faiss")
    scores, found = faiss.read_index(str(tmp_path / "flat/index.faiss")).search(unit[:20], 5)
    np.testing.assert_allclose(scores, np.sort(unit[:20] @ unit.T)[:, ::-1][:, :5], atol=1e-5)
    assert found[:, 0].tolist() == list(range(20))
    export(str(run), str(tmp_path / "ivf"), "faiss", index="IVF8,Flat", metric="dot")
    assert faiss.read_index(str(tmp_path / "ivf/index.faiss")).ntotal == ROWS


@pytest.mark.parametrize(
    ("index", "word"),
    [
        ("nonsense", "could not parse index string nonsense"),
        ("", "could not parse"),
        ("PQ3", "multiple of the number of subquantizers"),
        ("IVF1024,Flat", r"Number of training points \(700\)"),
        ("IVF16,PQ4x10", r"clusters \(1024\)"),
        ("PCA99,Flat", "cannot output 99 dimensions from 8"),
        ("IDMap,Flat", "add_with_ids"),
        ("LSH", "METRIC_L2|parse"),
        ("HNSW0", "a number in it is 0"),
        ("IVF0,Flat", "a number in it is 0"),
        ("PQ4x00", "a number in it is 0"),
    ],
)
def test_an_index_that_faiss_refuses(index: str, word: str, run: Path, tmp_path: Path) -> None:
    """It is refused in faiss's word before anything is written, and the folder stays free."""
    pytest.importorskip("faiss")
    with pytest.raises(SpecError, match=word) as told:
        export(str(run), str(tmp_path / "out"), "faiss", index=index)
    assert "faiss/" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_more_lists_than_an_index_is_trained_on(tmp_path: Path) -> None:
    """Of a large run the lists are compared with the rows that train them."""
    faiss_target = pytest.importorskip("embed_ops.targets.faiss")
    pytest.importorskip("faiss")
    large = Contents("digest", "embedding", 4, (TargetUnit("a", 0, 0, 50_000),))
    with pytest.raises(SpecError, match="60,000 lists need as many vectors"):
        faiss_target.FaissIndex(str(tmp_path / "out")).begin(large, Options("PCA2,IVF60000,Flat"))
    assert not (tmp_path / "out").exists()

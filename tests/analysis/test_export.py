"""Exports against the run, stopped and gone on.

And every block of docs/hand-over.md, run as it stands.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import make_run, mixture

from embed_ops.analysis import export as module
from embed_ops.analysis.export import export
from embed_ops.errors import SpecError, StorageError

DIM, ROWS = 8, 700
DRAW = mixture(DIM, 4)
DOCS = Path(__file__).parents[2] / "docs" / "hand-over.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


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


FORMATS = ["npy", *(name for name in ("faiss", "lance") if importlib.util.find_spec(name))]


@pytest.mark.parametrize("to", FORMATS)
def test_stopped_and_gone_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any) -> None:
    """A disk that is full in the middle leaves nothing under the final name.

    The same call ends with what a quiet one writes.
    """
    export(str(run), str(tmp_path / "quiet"), to)
    whole = module._units

    def failing(*words: Any) -> Any:
        for place, unit in enumerate(whole(*words)):
            if place == 2:
                raise OSError(28, "No space left on device")
            yield unit

    monkeypatch.setattr(module, "_units", failing)
    with pytest.raises(StorageError, match="No space left"):
        export(str(run), str(tmp_path / "out"), to)
    assert not (tmp_path / "out/vectors.npy").exists()
    assert not (tmp_path / "out/index.faiss").exists()
    monkeypatch.setattr(module, "_units", whole)
    assert export(str(run), str(tmp_path / "out"), to) == ROWS
    if to == "lance":
        import lance

        left, right = (lance.dataset(str(tmp_path / name)).to_table() for name in ("quiet", "out"))
        assert left.equals(right)
        return
    for name in ("vectors.npy", "index.faiss"):
        if (tmp_path / "quiet" / name).exists():
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()
    assert rows_of(tmp_path / "out").equals(rows_of(tmp_path / "quiet"))


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


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    """A folder with other things, another form of an export, a package that is not installed."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(SpecError, match="is not empty"):
        export(str(run), str(tmp_path / "full"), "npy")
    export(str(run), str(tmp_path / "out"), "npy")
    if "faiss" in FORMATS:
        with pytest.raises(SpecError, match="another form of it"):
            export(str(run), str(tmp_path / "out"), "faiss")
    if "lance" not in FORMATS:
        with pytest.raises(SpecError, match="needs the package lance"):
            export(str(run), str(tmp_path / "other"), "lance")


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_blocks_of_the_docs(run: Path, tmp_path: Path, block: int) -> None:
    """Each runs; those of packages that are not installed here are skipped."""
    code = BLOCKS[block]
    if "Run(out).dataset()" in code:
        pytest.skip("opens a Ray session: tests/cluster/test_commands.py does that")
    for name in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    from embed_ops import Run

    for to in FORMATS:
        if f"exported}}/{to}" in code or (to == "lance" and "table.lance" in code):
            export(str(run), str(tmp_path / ("table.lance" if to == "lance" else to)), to)
    names: dict[str, Any] = {
        "out": str(run),
        "exported": str(tmp_path),
        "np": np,
        "dim": DIM,
        "Run": Run,
        "matrix": DRAW(0, ROWS),
    }
    exec(compile(code, str(DOCS), "exec"), names)
    sizes = [
        len(names[name])
        for name in ("table", "frame", "rows")
        if name in names and hasattr(names[name], "__len__")
    ]
    assert all(size == ROWS for size in sizes)

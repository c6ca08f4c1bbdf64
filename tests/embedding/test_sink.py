"""A run is written apart from its source, with names that fit, or is refused before the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from reading import write

from embed_ops.embedding.sink import require_apart, require_free_names, require_names
from embed_ops.errors import SourceError, SpecError
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import unit_limits
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import locate

TABLE = pa.table({"text": ["a", "b"]})


def opened(source: Any, sink: Any, **encoder: Any) -> tuple[Spec, Corpus]:
    """Make a spec, and list its source."""
    path = [str(item) for item in source] if isinstance(source, list) else str(source)
    tree = {
        "source": {"path": path, "column": "text"},
        "encoder": {"model": "none", **encoder},
        "sink": {"path": str(sink)},
    }
    spec = Spec.parse(tree)
    return spec, Corpus.open(spec.source)


def apart(source: Any, sink: Any) -> None:
    """Compare a source and a sink."""
    spec, corpus = opened(source, sink)
    require_apart(spec, locate(spec.sink.path), [corpus])


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("src", "src/out"),
        ("src", "src"),
        ("src/../src", "src/out"),
        ("src", "src/x/../out"),
        ("link", "src/out"),
        ("src", "link/out"),
        ("src", "elsewhere/out"),  # src/away leads to elsewhere
        ("*/*.parquet", "out"),
        ("**/*.parquet", "out"),
        ("src/*.parquet", "src"),
        ("data", "."),
        ("data/sub", "."),
        ("data/x.parquet", "."),
        ("_hidden", "_hidden/out"),
    ],
)
def test_a_sink_in_the_way_of_the_source_is_refused(source: str, sink: str, tmp_path: Path) -> None:
    """However the two paths are written; the sentence names both."""
    for name in ("src/x", "data/x", "data/sub/x", "_hidden/x"):
        write(tmp_path / f"{name}.parquet", TABLE)
    (tmp_path / "src" / "x").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("src")
    (tmp_path / "src" / "away").symlink_to("../elsewhere")
    with pytest.raises(SpecError, match="lies in") as refused:
        apart(tmp_path / source, tmp_path / sink)
    assert str(tmp_path / source) in str(refused.value)
    assert str((tmp_path / sink).resolve()) in str(refused.value)
    with pytest.raises(SpecError, match="lies in"):
        apart([tmp_path / "src" / "x.parquet", tmp_path / source], tmp_path / sink)


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("src", "out"),
        ("src", "src2/out"),
        ("src", "src/.out"),
        ("src/x.parquet", "src/out"),
        ("src/x.parquet", "src"),
        ("src/*.parquet", "src/out"),
        ("sr*/x.parquet", "out"),
        ("src", "."),
    ],
)
def test_a_sink_beside_the_source_is_taken(source: str, sink: str, tmp_path: Path) -> None:
    """Also where only the names of files, or a glob without folders, keep them apart."""
    write(tmp_path / "src" / "x.parquet", TABLE)
    apart(tmp_path / source, tmp_path / sink)


def test_a_sink_below_a_file(tmp_path: Path) -> None:
    """It names the file."""
    write(tmp_path / "src" / "x.parquet", TABLE)
    with pytest.raises(SpecError, match=r"x\.parquet is a file; a folder can't lie below it"):
        apart(tmp_path / "src", tmp_path / "src" / "x.parquet" / "a" / "b")


@pytest.mark.parametrize(
    ("key", "what"), [("embedding", "an output"), ("vectors", "an output"), ("reason", "a column")]
)
def test_keys_named_like_columns_of_the_output(key: str, what: str, tmp_path: Path) -> None:
    """No reader could open what is written."""
    write(tmp_path / f"{key}=1" / "x.parquet", TABLE)
    outputs = {} if key != "vectors" else {"outputs": [{"name": "vectors"}]}
    with pytest.raises(SpecError, match=rf"the folders {key}=\.\.\. have the name of {what}"):
        require_free_names(*opened(tmp_path, "out", **outputs))


def test_names_that_the_disk_does_not_take(tmp_path: Path) -> None:
    """They are counted in bytes, the suffix of the unit with them, and whole paths too."""
    for name, fits in (("x" * 226, True), ("x" * 227, False), ("é" * 113, True), ("é" * 114, False)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write(folder / f"{name}.parquet", TABLE)
        spec, corpus = opened(folder, tmp_path / "out")
        if fits:
            require_names(locate(spec.sink.path), corpus.plan(), unit_limits(spec))
            continue
        with pytest.raises(SourceError, match="longer than the 255 that the disk takes"):
            require_names(locate(spec.sink.path), corpus.plan(), unit_limits(spec))
    deep = tmp_path / "/".join(["y" * 200] * 20)
    spec, corpus = opened(tmp_path / "0", deep)
    with pytest.raises(SourceError, match=r"a path of .* longer than the 4096"):
        require_names(locate(spec.sink.path), corpus.plan(), unit_limits(spec))

"""A first spec for data that is there: each kind of file gives one that plans.

What can't be embedded is said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embed_ops import Spec
from embed_ops.analysis.starter import look, starter, write_starter
from embed_ops.errors import SourceError, SpecError
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


def test_nothing_to_embed(tmp_path: Path) -> None:
    """An empty folder, and a table without texts."""
    with pytest.raises(SourceError, match="nothing here that can be embedded"):
        starter(str(tmp_path))
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"no column of texts or images; columns: n \(int64\)"):
        starter(str(tmp_path))

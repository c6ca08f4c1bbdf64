"""Rows of a corpus read again: against pandas and the files themselves, and what is not shown."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embed_ops.runs import source_rows
from embed_ops.runs.directory import RunDir
from embed_ops.runs.source_rows import SourceRows
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import locate

ROWS = 700
KINDS = ["parquet", "jsonl", "jsonl.gz", "csv", "csv.gz", "text"]
HUGE = "x" * 3_000_000
FRAME = pd.DataFrame(
    {
        "text": [f"row {row} \x1b[31mé\u2028 {'y' * (row % 90)}" for row in range(ROWS)],
        "title": [f"<b>{row}</b>" for row in range(ROWS)],
        "score": np.arange(ROWS, dtype=float) / 4,
    }
)
FRAME.loc[600, "text"] = HUGE


def as_it_is(content: Any) -> Any:
    """Show all of a content."""
    return content


def write(kind: str, folder: Path, frame: pd.DataFrame) -> Path:
    """Write a table as a source file of a `key=value` folder."""
    place = folder / "lang=en"
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"a.{'txt' if kind == 'text' else kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file, row_group_size=128)
    elif kind.startswith("jsonl"):
        lines = "".join(json.dumps(row) + "\n" for row in frame.to_dict("records"))
        file.write_bytes(gzip.compress(lines.encode()) if kind.endswith("gz") else lines.encode())
    elif kind.startswith("csv"):
        frame.to_csv(file, index=False)
    else:
        file.write_text("".join(f"{text}\n" for text in frame["text"]), encoding="utf-8", newline="")
    return file


def source_of(kind: str, folder: Path, **fields: Any) -> dict[str, Any]:
    """Give the section of the source."""
    column = {} if kind == "text" or "template" in fields else {"column": "text"}
    return {"kind": kind.removesuffix(".gz"), "path": str(folder), **column, **fields}


def planned(section: dict[str, Any], run: Path, family: str = "text") -> tuple[Corpus, SourceRows]:
    """Plan a run that reads a source."""
    spec = Spec.parse(
        {"source": section, "encoder": {"family": family, "model": "none"}, "sink": {"path": str(run)}}
    )
    corpus = Corpus.open(spec.source)
    RunDir.at(str(run)).write_plan(corpus.plan(), "x")
    return corpus, SourceRows(spec.source, locate(str(run)))


def places_of(corpus: Corpus) -> list[tuple[str, int]]:
    """List where the rows of a corpus stand, by reading all of it."""
    found: list[tuple[str, int]] = []
    for span in corpus.plan().spans:
        for piece in span.pieces:
            file = next(file for file in corpus.files if file.name == piece.source)
            for read in corpus.source.read(corpus.place(file), piece, piece.begin, corpus.plan().columns):
                found += [(piece.source, row) for row in read.positions.tolist()]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_pandas(kind: str, tmp_path: Path) -> None:
    """Any rows, in any order, twice too: what was embedded, and columns that nobody kept."""
    write(kind, tmp_path / "corpus", FRAME)
    corpus, rows = planned(source_of(kind, tmp_path / "corpus"), tmp_path / "run")
    places = places_of(corpus)
    assert len(places) == ROWS
    wanted = [650, 3, 0, 699, 3, 127, 128, 600]
    names = [] if kind == "text" else ["title", "score"]
    columns = rows.columns(names, places[0][0]) if names else pa.schema([])
    read = rows.read([places[row] for row in wanted], columns, as_it_is)
    assert read.missing == {}
    assert [read.contents[places[row]] for row in wanted] == FRAME["text"][wanted].tolist()
    for name in names:
        values = [read.columns[name][places[row]] for row in wanted]
        expected = FRAME[name][wanted].tolist()
        assert values == ([str(value) for value in expected] if kind.startswith("csv") else expected)
    none = rows.read([], pa.schema([]), as_it_is)
    assert (none.contents, none.missing) == ({}, {})


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_templates_and_conditions(kind: str, tmp_path: Path) -> None:
    """A text that a template joins is joined again; rows that `where` chose are not tested."""
    write(kind, tmp_path / "corpus", FRAME)
    section = source_of(
        kind, tmp_path / "corpus", template="{lang}: {title} {score}", keep=["text"], where="lang = 'en'"
    )
    corpus, rows = planned(section, tmp_path / "run")
    places = places_of(corpus)
    read = rows.read([places[5], places[202]], pa.schema([]), as_it_is)
    assert [read.contents[places[row]] for row in (5, 202)] == ["en: <b>5</b> 1.25", "en: <b>202</b> 50.5"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_shows_nothing(kind: str, tmp_path: Path) -> None:
    """What stands there now may be another row: grown, shortened, rewritten, removed."""
    file = write(kind, tmp_path / "corpus", FRAME)
    corpus, rows = planned(source_of(kind, tmp_path / "corpus"), tmp_path / "run")
    places = places_of(corpus)[10:12]
    content, then = file.read_bytes(), file.stat()
    for change, says in (
        (lambda: file.write_bytes(content + b"\n"), "grown from"),
        (lambda: file.write_bytes(content[:-1]), "shortened from"),
        (lambda: file.write_bytes(content), "rewritten"),
        (lambda: file.unlink(), "removed"),
    ):
        change()
        read = rows.read(places, pa.schema([]), as_it_is)
        assert read.contents == {}
        ((source, why), count) = next(iter(read.missing.items()))
        assert (source, count) == (places[0][0], 2)
        assert why.startswith(says)
    file.write_bytes(content)
    os.utime(file, ns=(then.st_mtime_ns, then.st_mtime_ns))
    assert len(rows.read(places, pa.schema([]), as_it_is).contents) == 2


def test_only_what_is_shown_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of Parquet costs its row group, a line its block; the best rows come first."""
    corpora = {}
    for kind in ("parquet", "jsonl", "csv.gz"):
        write(kind, tmp_path / kind, FRAME)
        corpus, rows = planned(source_of(kind, tmp_path / kind), tmp_path / f"run-{kind}")
        corpora[kind] = rows, places_of(corpus)
    monkeypatch.setattr(source_rows, "MOST_BYTES", 2_000_000)
    for kind, far in (("parquet", 639), ("jsonl", 650)):
        rows, places = corpora[kind]
        read = rows.read([places[2], places[far]], pa.schema([]), as_it_is)
        assert list(read.contents) == [places[2]]
        assert "reading up to its rows takes" in next(iter(read.missing))[1]
    monkeypatch.setattr(source_rows, "MOST_BYTES", 1000)
    rows, places = corpora["csv.gz"]
    read = rows.read(places[:3], pa.schema([]), as_it_is)
    assert (read.contents, sum(read.missing.values())) == ({}, 3)


@pytest.mark.parametrize("kind", ["parquet", "jsonl.gz", "csv"])
def test_a_broken_file_is_told(kind: str, tmp_path: Path) -> None:
    """A file that can't be decoded says so, and the others are read."""
    write(kind, tmp_path / "corpus", FRAME)
    file = tmp_path / "corpus/lang=en" / f"b.{kind}"
    file.write_bytes(write(kind, tmp_path / "other", FRAME).read_bytes())
    corpus, rows = planned(source_of(kind, tmp_path / "corpus"), tmp_path / "run")
    places = places_of(corpus)
    then = file.stat()
    file.write_bytes(b"\xff" * then.st_size)
    os.utime(file, ns=(then.st_mtime_ns, then.st_mtime_ns))
    read = rows.read([places[5], places[ROWS + 5]], pa.schema([]), as_it_is)
    assert read.contents == {places[5]: FRAME["text"][5]}
    assert next(iter(read.missing))[1].startswith("can't be read: ")


def test_images(tmp_path: Path) -> None:
    """Files of a folder, members of a tar, files that rows name: their bytes."""
    pictures = {f"{number}.png": bytes([number]) * 50 for number in range(9)}
    (tmp_path / "folder/cats").mkdir(parents=True)
    (tmp_path / "rows").mkdir()
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/a.tar", "w") as archive:
        for name, content in pictures.items():
            (tmp_path / "folder/cats" / name).write_bytes(content)
            (tmp_path / "rows" / name).write_bytes(content)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    pq.write_table(pa.table({"image": list(pictures)}), tmp_path / "rows/a.parquet")
    for kind, path in (("images", "folder"), ("webdataset", "tars"), ("parquet", "rows")):
        section = {"kind": kind, "path": str(tmp_path / path), "modality": "image"}
        section |= {"column": "image"} if kind == "parquet" else {}
        corpus, rows = planned(section, tmp_path / f"run-{kind}", "image")
        places = places_of(corpus)
        read = rows.read([places[7], places[2]], pa.schema([]), as_it_is)
        assert [read.contents[places[row]] for row in (7, 2)] == [pictures["7.png"], pictures["2.png"]]
        assert rows.reference == ("image" if kind == "parquet" else None)
    columns = rows.columns(["image"], "a.parquet")
    assert rows.read([places[4]], columns).columns["image"] == {places[4]: "4.png"}

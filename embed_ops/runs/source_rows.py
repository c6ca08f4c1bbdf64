"""What stood in some rows of the corpus, read again from the source of a run.

Only these rows are read, as far as the format lets them be found: a row group of Parquet, a line of
a plain file, a sample of a plain tar, an image file. CSV and compressed files are read from their
beginning, as long as that is little. Files that have changed since are not read: what stands there
now may be another row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.errors import EmbedOpsError
from embed_ops.redaction import redacted
from embed_ops.runs.directory import RunDir
from embed_ops.schema import CONTENT
from embed_ops.sources.base import DECODING_FAULTS, Records, text_columns
from embed_ops.sources.columns import choose_columns
from embed_ops.sources.parquet import row_groups
from embed_ops.sources.plan import Piece, SourceFile, change_of, place_of
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows
from embed_ops.spec.source import GraphSourceSpec, SourceSpec
from embed_ops.storage.files import Location, file_info
from embed_ops.storage.listing import root_of

MOST_BYTES = 512 << 20
"""Most bytes that are read for rows which are shown."""
_GAP_BYTES = 1 << 20
"""So far apart in a plain file two rows are read by themselves."""
_SECOND = 1_000_000_000
_THREADS = 8
_FAULTS = (*DECODING_FAULTS, EmbedOpsError)

Place = tuple[str, int]
"""Where a row comes from: source file and position."""


@dataclass(frozen=True)
class Reread:
    """What was read again.

    Attributes:
        columns: values by column; `contents`: what is shown of what was
            embedded. Both by place.
        missing: places whose rows could not be read, by file and reason.
    """

    columns: dict[str, dict[Place, Any]]
    contents: dict[Place, Any]
    missing: dict[tuple[str, str], int]


@dataclass(frozen=True)
class _Stretch:
    """Rows of one file that are read in one go, ascending, and what that costs in bytes."""

    file: SourceFile
    rows: tuple[int, ...]
    bytes: int


class SourceRows:
    """The rows of a run's source, by where they come from.

    Args:
        spec: the source section of the run.
        run: where the run is: its plan says what the files and columns were.

    Raises:
        RunError: the run has no plan.
        SpecError, StorageError: the source's file system can't be opened.
    """

    def __init__(self, spec: SourceSpec, run: Location) -> None:
        plan = RunDir(run).read_plan()
        # The rows of the run have been chosen already, and it has what was kept of them.
        self._spec = spec.model_copy(update={"where": None, "keep": ()})
        self._files = {file.name: file for file in plan.files}
        self._planned = plan.columns
        self._roots = tuple(root_of(address) for address in spec.paths)
        self._source = make_source(self._spec)

    @property
    def has_contents(self) -> bool:
        """Whether what is embedded stands in columns: not so in a graph, or a table of words."""
        return not isinstance(self._spec, GraphSourceSpec) and any(
            name in self._planned.names for name in text_columns(self._spec)
        )

    @property
    def reference(self) -> str | None:
        """The column of the files that rows name as images, None where there is none."""
        name = self._spec.contents
        if self._spec.modality != "image" or name not in self._planned.names:
            return None
        kind = self._planned.field(name).type
        if pa.types.is_struct(kind):
            return f"{name}.path" if kind.get_field_index("path") >= 0 else None
        return name if pa.types.is_string(kind) else None

    def columns(self, names: Sequence[str], source: str) -> pa.Schema:
        """Find columns, kept or not, by the head of a source file.

        Raises:
            SourceError: there is no such column; the message lists those there are.
            Others of decoding and storage: the file can't be read.
        """
        spec = self._spec.model_copy(update={"keep": tuple(names), "types": {}})
        file = self._files[source]
        schema = make_source(spec).sample_schema(self._place(file))
        chosen = choose_columns(spec, [file], [(source, schema)])
        return pa.schema([chosen.field(name) for name in names])

    def read(
        self, places: Sequence[Place], columns: pa.Schema, shown: Callable[[Any], Any] | None = None
    ) -> Reread:
        """Read some rows.

        Args:
            places: where they come from; the first count most where not all can be read.
            columns: to read of each.
            shown: makes of what is embedded (a text, words, the bytes of an image, or None) what is
                kept of it; None where it is not read. Called in several threads.
        """
        wanted: dict[str, list[int]] = {}
        for source, row in dict.fromkeys(places):
            wanted.setdefault(source, []).append(row)
        reread = Reread({name: {} for name in columns.names}, {}, {})
        schema = self._schema(columns, contents=shown is not None)
        rank = {place: number for number, place in reversed(list(enumerate(places)))}
        with ThreadPoolExecutor(_THREADS) as pool:
            stretches: list[_Stretch] = []
            listed = pool.map(partial(self._stretches, schema), wanted, wanted.values())
            for (source, rows), found in zip(wanted.items(), listed, strict=True):
                if isinstance(found, str):
                    reread.missing[source, found] = len(rows)
                else:
                    stretches += found
            stretches.sort(key=lambda stretch: min(rank[stretch.file.name, row] for row in stretch.rows))
            chosen = list(_affordable(stretches, reread))
            for stretch, rows_read in zip(
                chosen, pool.map(partial(self._read, schema, columns, shown), chosen), strict=True
            ):
                _take(reread, stretch, rows_read)
        return reread

    def _schema(self, columns: pa.Schema, *, contents: bool) -> pa.Schema:
        embedded = text_columns(self._spec) if contents else ()
        fields = [field for field in self._planned if field.name in embedded]
        names = {field.name for field in fields}
        fields += [field for field in columns if field.name not in names]
        return pa.schema(fields, self._planned.metadata)

    def _place(self, file: SourceFile) -> Location:
        return place_of(self._roots, file.name)

    def _stretches(self, schema: pa.Schema, source: str, rows: Sequence[int]) -> list[_Stretch] | str:
        """Divide the rows of a file by what is read in one go, or say why they are not read."""
        file = self._files.get(source)
        if file is None:
            return "is not in the plan of the run"
        try:
            at = self._place(file)
            if told := _change(file, at):
                return told
            rows = sorted(rows)
            if not self._source.seekable(at):
                return [_Stretch(file, tuple(rows), file.size)]
            if self._spec.kind == "parquet":
                return list(_by_group(file, rows, at, schema.names))
            return list(_by_gap(file, rows))
        except _FAULTS as error:
            return f"can't be read: {redacted(str(error))}"

    def _read(
        self,
        schema: pa.Schema,
        columns: pa.Schema,
        shown: Callable[[Any], Any] | None,
        stretch: _Stretch,
    ) -> list[tuple[int, list[Any], Any]] | str:
        """Read a stretch: (position, values, content) of each row, or what is wrong."""
        file, rows = stretch.file, np.array(stretch.rows)
        piece = Piece(file.name, stretch.rows[0], stretch.rows[-1] + 1, None, file.size)
        made = None if shown is None else Rows(self._spec, schema)
        read: list[tuple[int, list[Any], Any]] = []
        try:
            at = self._place(file)
            for records in self._source.read(at, piece, stretch.rows[0], schema):
                if chosen := _chosen(records, rows):
                    positions = chosen.positions.tolist()
                    values = [chosen.table.column(name).to_pylist() for name in columns.names]
                    texts: Iterable[Any] = [None] * len(chosen)
                    if made is not None and shown is not None:
                        texts = _contents(made, file.name, at, chosen, shown)
                    by_row: Iterable[tuple[Any, ...]] = (
                        zip(*values, strict=True) if values else (() for _ in positions)
                    )
                    read += [
                        (row, list(one), text)
                        for row, one, text in zip(positions, by_row, texts, strict=True)
                    ]
                if len(records) and records.positions[-1] >= rows[-1]:
                    break
        except _FAULTS as error:
            return f"can't be read: {redacted(str(error))}"
        return read


def _change(file: SourceFile, at: Location) -> str | None:
    """Say what has become of a file since it was planned; None where it is as it was."""
    info = file_info(at)
    if info.size is None:
        return change_of(file, None)
    modified = info.mtime_ns or 0
    if not at.local and modified // _SECOND == file.modified // _SECOND:
        # Stores tell whole seconds of one object, and parts of them in a listing.
        modified = file.modified
    return change_of(file, (info.size, modified))


def _by_gap(file: SourceFile, rows: Sequence[int]) -> Iterator[_Stretch]:
    """Divide rows of a file that is read from anywhere, where they stand far apart."""
    cuts = [place for place in range(1, len(rows)) if rows[place] - rows[place - 1] > _GAP_BYTES]
    for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        part = tuple(rows[begin:end])
        yield _Stretch(file, part, min(file.size, part[-1] - part[0] + _GAP_BYTES))


def _by_group(
    file: SourceFile, rows: Sequence[int], at: Location, names: Sequence[str]
) -> Iterator[_Stretch]:
    """Divide rows of a Parquet file by row group: a group is read from its beginning."""
    for group in row_groups(at, names):
        part = tuple(row for row in rows if group.first <= row < group.first + group.rows)
        if part:
            share = (part[-1] + 1 - group.first) / group.rows
            yield _Stretch(file, part, int(group.bytes * share))


def _affordable(stretches: Sequence[_Stretch], reread: Reread) -> Iterator[_Stretch]:
    """Yield the stretches that are read, the first ones first; the others are told."""
    spent = 0
    for stretch in stretches:
        if spent + stretch.bytes <= MOST_BYTES:
            spent += stretch.bytes
            yield stretch
        else:
            # In the order of rows, so that the best ones are shown.
            key = stretch.file.name, f"reading up to its rows takes {stretch.bytes / 1e9:,.1f} GB"
            reread.missing[key] = reread.missing.get(key, 0) + len(stretch.rows)


def _take(reread: Reread, stretch: _Stretch, rows_read: list[tuple[int, list[Any], Any]] | str) -> None:
    """Put the rows of a stretch to the others."""
    source = stretch.file.name
    if isinstance(rows_read, str):
        key = source, rows_read
        reread.missing[key] = reread.missing.get(key, 0) + len(stretch.rows)
        return
    for row, values, text in rows_read:
        for column, value in zip(reread.columns.values(), values, strict=True):
            column[source, row] = value
        reread.contents[source, row] = text


def _chosen(records: Records, rows: np.ndarray[Any, Any]) -> Records | None:
    """Choose the records at some positions, None where there are none."""
    index = np.flatnonzero(np.isin(records.positions, rows))
    if not len(index):
        return None
    taken = pa.array(index)
    return replace(
        records,
        table=records.table.take(taken),
        faults=records.faults.take(taken),
        positions=records.positions[index],
        left_out=None,
    )


def _contents(
    made: Rows, source: str, at: Location, chosen: Records, shown: Callable[[Any], Any]
) -> list[Any]:
    """Make what is shown of what is embedded of records."""
    texts: list[Any] = []
    for chunk in made.complete(source, at, chosen):
        # One by one: a chunk of images is large, and what is made of them is small.
        texts += [shown(value.as_py()) for value in chunk.table.column(CONTENT)]
    return texts

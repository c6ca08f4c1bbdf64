"""From columns to rows: what is embedded of each, and which rows `where` lets through."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.schema import CONTENT, MESSAGE, REASON, Reason
from embed_ops.sources.base import HIVE_KEYS, Records, hive_columns, text_columns
from embed_ops.sources.graph import node_type, nodes
from embed_ops.sources.reach import Reach
from embed_ops.sources.references import HELD_BYTES, Content, fetch
from embed_ops.sources.tensors import value_bytes
from embed_ops.sources.where import Condition, ConditionError
from embed_ops.spec.source import GraphSourceSpec, ReferringSourceSpec, SourceSpec
from embed_ops.spec.templates import parts_of
from embed_ops.storage.location import Location

KEPT_PER_TEXT = 8
"""Bytes of kept columns that weigh as one of text: a unit carries at most 32 MiB of them."""


def _byte_lengths(columns: Iterable[pa.ChunkedArray]) -> npt.NDArray[np.int64]:
    """Add up the bytes of text and binary columns and of lists of them, (rows,) int64.

    Others are small.
    """
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    plain, lists = [], []
    for column in columns:
        if any(kind(column.type) for kind in kinds):
            plain.append(pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64))
        elif pa.types.is_list(column.type) and any(kind(column.type.value_type) for kind in kinds):
            # A word of a list has a space behind it.
            of_word = (
                pc.fill_null(pc.binary_length(pc.list_flatten(column)), 0).to_numpy().astype(np.int64) + 1
            )
            counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            lists.append(
                np.bincount(np.repeat(np.arange(len(column)), counts), of_word, len(column)).astype(np.int64)
            )
    lengths = [*plain, *lists]
    return np.sum(lengths, axis=0) if lengths else np.zeros(1, np.int64)


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one file with what is embedded.

    Attributes:
        table: kept columns, `_content`, `reason`, `message`.
        positions: (records,) int64; `end`: position behind the last.
        kept: (records,) whether `where` lets the row through, always for one that is a reject
            already.
        bytes: (records,) of what is embedded, or an eighth of those of the kept columns where that
            is more, 0 for rows left out.
        is_record: false where one row stands for the unreadable rest of a file.
        left_out: as in `Records`; counted with the rows that `where` leaves out.
    """

    table: pa.Table
    positions: npt.NDArray[np.int64]
    end: int
    kept: npt.NDArray[np.bool_]
    bytes: npt.NDArray[np.int64]
    is_record: bool = True
    left_out: npt.NDArray[np.int64] | None = None

    @property
    def others(self) -> int:
        """Count what is left out besides rows."""
        return 0 if self.left_out is None else int(self.left_out.sum())

    def __len__(self) -> int:
        """Count the records."""
        return len(self.positions)

    def split(self, count: int) -> tuple[Chunk, Chunk]:
        """Divide after `count` records."""
        middle = int(self.positions[count]) if count < len(self) else self.end
        head = Chunk(
            self.table[:count],
            self.positions[:count],
            middle,
            self.kept[:count],
            self.bytes[:count],
            self.is_record,
            None if self.left_out is None else self.left_out[:count],
        )
        tail = Chunk(
            self.table[count:],
            self.positions[count:],
            self.end,
            self.kept[count:],
            self.bytes[count:],
            self.is_record,
            None if self.left_out is None else self.left_out[count:],
        )
        return head, tail


class Rows:
    """Makes rows of records.

    What is embedded, the columns of hive folders, and the choice of `where`.
    """

    def __init__(self, spec: SourceSpec, schema: pa.Schema, *, whole: bool = False) -> None:
        """Take the source section and the columns that are read from every file.

        `whole`: let all nodes of a graph through.
        """
        self._spec = spec
        self._whole = whole
        self.schema = schema
        self._keys: list[str] = json.loads((schema.metadata or {}).get(HIVE_KEYS, b"[]"))
        self.kept = pa.schema([schema.field(name) for name in spec.keep if name in schema.names])
        self._condition = None if spec.where is None else Condition(spec.where)

    def check(self) -> None:
        """Try `where` on no rows, with the columns of hive folders.

        Raises:
            SpecError: the condition can't be evaluated on these columns.
        """
        if self._condition is not None:
            self._condition.check(self.schema.empty_table(), dict.fromkeys(self._keys))

    def complete(self, source: str, at: Location, read: Records) -> Iterator[Chunk]:
        """Choose rows, and add what is embedded.

        Args:
            source: name of the file.
            at: where the file is.
            read: records of it.

        Yields:
            the records as one chunk; those that name files as several, each with no more files than
            are to be held.
        """
        # A file that is in no folder of a key has no value of it.
        hive = dict.fromkeys(self._keys) | hive_columns(source)
        bad = read.faults.column(REASON).is_valid().to_numpy()
        chosen, faults = np.ones(len(read), np.bool_), read.faults
        if self._condition is not None:
            try:
                chosen = bad | self._condition.holds(read.table, hive)
            except ConditionError:
                chosen, faults = _test_each(self._condition, read.table, hive, faults)
        records = replace(read, faults=faults)
        if self._spec.modality in ("text", "words", "tensor"):
            yield self._chunk(records, chosen, self._text(read.table, hive))
            return
        if isinstance(self._spec, GraphSourceSpec):
            yield self._chunk(records, chosen | self._whole, nodes(self._spec, read.table, chosen))
            return
        column = read.table.column(self._spec.contents)
        if pa.types.is_binary(column.type) or not isinstance(self._spec, ReferringSourceSpec):
            yield self._chunk(records, chosen, column)
            return
        wanted = chosen & faults.column(REASON).is_null().to_numpy()
        portions = fetch(column, wanted, Reach(self._spec, source, at), HELD_BYTES)
        # The variable of a loop would hold a portion while the next one is fetched.
        yield from map(lambda portion: self._fetched(records, chosen, *portion), portions)

    def _fetched(
        self, read: Records, chosen: npt.NDArray[np.bool_], first: int, contents: Sequence[Content]
    ) -> Chunk:
        """Cut out the records whose files were fetched; files that can't be had become faults."""
        last = first + len(contents)
        faults = read.faults[first:last]
        reasons, messages = faults.column(REASON).to_pylist(), faults.column(MESSAGE).to_pylist()
        for row, content in enumerate(contents):
            if isinstance(content, tuple):
                reasons[row], messages[row] = str(content[0]), content[1]
        faults = pa.table({REASON: pa.array(reasons, pa.string()), MESSAGE: pa.array(messages, pa.string())})
        column = pa.array(
            [content if isinstance(content, bytes) else None for content in contents], pa.binary()
        )
        end = read.end if last == len(read) else int(read.positions[last])
        others = None if read.left_out is None else read.left_out[first:last]
        part = Records(read.table[first:last], faults, read.positions[first:last], end, others)
        return self._chunk(part, chosen[first:last], pa.chunked_array([column]))

    def _chunk(self, read: Records, chosen: npt.NDArray[np.bool_], content: pa.ChunkedArray) -> Chunk:
        columns = {name: read.table.column(name) for name in self.kept.names}
        held = value_bytes(content) if self._spec.modality == "tensor" else _byte_lengths([content])
        size = np.maximum(held, _byte_lengths(columns.values()) // KEPT_PER_TEXT)
        columns |= {
            CONTENT: content,
            REASON: read.faults.column(REASON),
            MESSAGE: read.faults.column(MESSAGE),
        }
        return Chunk(
            pa.table(columns),
            read.positions,
            read.end,
            chosen,
            np.where(chosen, size, 0),
            left_out=read.left_out,
        )

    def reject(self, reason: str, message: str) -> pa.Table:
        """Make the one row, without values, that stands for the unreadable rest of a file."""
        empty = self.empty().schema
        values = {name: pa.nulls(1, empty.field(name).type) for name in empty.names}
        return pa.table(values | {REASON: pa.array([str(reason)]), MESSAGE: pa.array([message])}, empty)

    def empty(self) -> pa.Table:
        """Make a table of no rows with the columns that `complete` gives."""
        fields = [
            *self.kept,
            pa.field(CONTENT, self._content_type),
            pa.field(REASON, pa.string()),
            pa.field(MESSAGE, pa.string()),
        ]
        return pa.schema(fields).empty_table()

    @property
    def _content_type(self) -> pa.DataType:
        if isinstance(self._spec, GraphSourceSpec):
            return node_type(self._spec, self.schema)
        if self._spec.modality == "tensor":
            return self.schema.field(self._spec.contents).type
        return {"image": pa.binary(), "words": pa.list_(pa.string())}.get(self._spec.modality, pa.string())

    def _text(self, table: pa.Table, hive: Mapping[str, str | None]) -> pa.ChunkedArray:
        def column(name: str) -> pa.ChunkedArray:
            if name in table.schema.names:
                return table.column(name)
            return pa.chunked_array([pa.array([hive.get(name)] * len(table), pa.string())])

        if self._spec.joined is None:
            return column(text_columns(self._spec)[0])
        parts: list[object] = []
        for literal, name in parts_of(self._spec.joined):
            if literal:
                parts.append(literal)
            if name is not None:
                parts.append(column(name))
        return pc.binary_join_element_wise(*parts, "", null_handling="emit_null")


def _test_each(
    condition: Condition, table: pa.Table, hive: Mapping[str, str | None], faults: pa.Table
) -> tuple[npt.NDArray[np.bool_], pa.Table]:
    """Evaluate `where` row by row, after it failed on a value.

    (rows,) bool, and the faults with those rows added.
    """
    reasons, messages = faults.column(REASON).to_pylist(), faults.column(MESSAGE).to_pylist()
    chosen = np.ones(len(table), np.bool_)
    for row in range(len(table)):
        if reasons[row] is None:
            try:
                chosen[row] = condition.holds(table.slice(row, 1), hive)[0]
            except ConditionError as error:
                reasons[row], messages[row] = (
                    str(Reason.WRONG_TYPE),
                    f"where fails on this row: {error}",
                )
    return chosen, pa.table(
        {REASON: pa.array(reasons, pa.string()), MESSAGE: pa.array(messages, pa.string())}
    )

"""The corpus of a spec: its files, its plan, and what has changed since an earlier plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from embed_ops.errors import RunError, SourceError
from embed_ops.sources.base import DECODING_FAULTS, Source, hive_keys, text_columns
from embed_ops.sources.columns import check_columns, choose_columns
from embed_ops.sources.contents import Completed, as_read, embeddable
from embed_ops.sources.listing import LeftOut, inspect_files, limit_layouts, list_sources
from embed_ops.sources.plan import (
    Changes,
    Layout,
    Piece,
    Plan,
    SourceFile,
    Span,
    changes_between,
    make_spans,
    place_of,
)
from embed_ops.sources.registry import make_source
from embed_ops.sources.rows import Rows
from embed_ops.sources.types import common_type
from embed_ops.sources.units import Cursor
from embed_ops.sources.values import NATURAL
from embed_ops.spec.source import GraphSourceSpec, SourceSpec
from embed_ops.storage.faults import is_transport, storage_error
from embed_ops.storage.files import Location
from embed_ops.storage.listing import Listing

_FIRST_HEADS = {"jsonl": 16}
"""Files whose heads are looked at before any type is believed, where only records tell types.

Elsewhere one: a line of CSV has strings, and the first samples of a tar are images."""
_MOST_HEADS = 64
"""Files that are looked at for a column which none before them has."""
_NAMED = 5
"""Changed files that a message names."""
_MOST_LOOKED_AT = 100_000
"""Records that the driver reads to find rows for the parity check."""


@dataclass(frozen=True)
class Corpus:
    """The files that a spec names, as they are now."""

    spec: SourceSpec
    source: Source
    listings: tuple[Listing, ...]
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...]

    @classmethod
    def open(cls, spec: SourceSpec) -> Corpus:
        """List the files.

        Raises:
            SourceError: a path is missing or has no matching file.
        """
        source = make_source(spec)
        listed = list_sources(spec.paths, source.extensions)
        return cls(spec, source, listed.listings, listed.files, listed.left_out)

    @property
    def roots(self) -> tuple[Location, ...]:
        """The folders that the files are below, in order."""
        return tuple(listing.root for listing in self.listings)

    def place(self, file: SourceFile) -> Location:
        """Say where a file is."""
        return place_of(self.roots, file.name)

    def plan(self) -> Plan:
        """Make the plan of all files.

        Raises:
            SourceError: a column is missing or of the wrong type.
        """
        layouts = self._layouts(self.files)
        known = [
            (file.name, layout.schema)
            for file, layout in zip(self.files, layouts, strict=True)
            if layout.schema is not None
        ]
        wanted = {*text_columns(self.spec), *self.spec.keep} - set(hive_keys(self.files))
        columns = choose_columns(self.spec, self.files, known or [self._heads(wanted)])
        layouts = self._limited(layouts, columns)
        files = self.files[: len(layouts)]
        return Plan(files, tuple(make_spans(files, layouts, sharing=self.source.sharing)), columns)

    def changes(self, plan: Plan) -> Changes:
        """Compare the files with those of an earlier plan.

        Raises:
            RunError: the plan has files below more roots than `source.path` names now.
        """
        for file in plan.files:
            if file.root >= len(self.roots):
                raise RunError(
                    f"source.path: {file.name} of this run is in path {file.root}, but only "
                    f"{len(self.roots)} are given"
                )
        return changes_between(plan, self.files)

    def update(self, plan: Plan) -> tuple[Plan, tuple[str, ...]]:
        """Bring an earlier plan up to date: new files form new units, the rest is left alone.

        Returns:
            the plan, and the source files whose units are stale: changed ones where `on_change` is
                "re-embed", and those that share a unit with one.

        Raises:
            RunError: a planned file has changed, was shortened or removed, and `on_change` is
                "error".
        """
        changes = self.changes(plan)
        new = () if self.spec.most_rows is not None else changes.new
        if changes.changed and not self.spec.takes_changes:
            raise RunError(_changed_message(changes.changed))
        if not changes.changed and not new:
            return plan, ()
        if changes.changed and self.spec.most_rows is not None:
            return self.plan(), tuple(file.name for file in plan.files)
        hit = [span for span in plan.spans if any(piece.source in changes.changed for piece in span.pieces)]
        stale = {piece.source for span in hit for piece in span.pieces}
        again = [file for file in self.files if file.name in stale or file.name in new]
        layouts = self._layouts(again)
        check_columns(self.spec, plan.columns, again, layouts)
        indexes = {span.index for span in hit}
        kept = tuple(span for span in plan.spans if span.index not in indexes)
        first = max((span.index for span in plan.spans), default=-1) + 1
        files = [file for file in plan.files if file.name not in stale] + again
        updated = Plan(
            tuple(files), (*kept, *make_spans(again, layouts, first, self.source.sharing)), plan.columns
        )
        return updated, tuple(stale)

    def _layouts(self, files: Sequence[SourceFile]) -> list[Layout]:
        return inspect_files(files, lambda file: self.source.inspect(file.name, self.place(file), file.size))

    def sample_columns(self) -> pa.Schema:
        """Find the columns by the first files that can be read, whatever the spec names.

        Raises:
            SourceError: no file can be read.
            StorageError: the storage fails.
        """
        return self._heads(set())[1]

    def _heads(self, wanted: set[str]) -> tuple[str, pa.Schema]:
        """Find the columns in the heads of files: (the first that can be read, columns of all).

        The first few files tell the types. Others are asked while a column is nowhere, or holds
        nothing but nulls.

        Args:
            wanted: names of columns.

        Raises:
            SourceError: no file can be read.
            StorageError: the storage fails.
        """
        schemas: list[tuple[str, pa.Schema]] = []
        faults: list[tuple[str, Exception]] = []
        first = _FIRST_HEADS.get(self.spec.kind, 1)
        for begin, end in ((0, first), *((at, at + first) for at in range(first, len(self.files), first))):
            with ThreadPoolExecutor(first) as pool:
                for file, head in zip(
                    self.files[begin:end], pool.map(self._head, self.files[begin:end]), strict=True
                ):
                    if isinstance(head, Exception):
                        faults.append((file.name, head))
                    elif head.names:
                        schemas.append((file.name, head))
            told = {field.name for _, head in schemas for field in head if not pa.types.is_null(field.type)}
            if schemas and (wanted <= told or len(schemas) >= _MOST_HEADS):
                break
        if not schemas and faults:
            name, fault = faults[0]
            raise SourceError(
                f"source.path: none of {len(self.files)} files can be read; {name}: {fault}"
            ) from fault
        if not schemas:
            # Files without a byte are a table without rows, whatever its columns would be.
            empty = all(file.size == 0 for file in self.files)
            return self.files[0].name, pa.schema([(name, pa.null()) for name in sorted(wanted) if empty])
        return schemas[0][0], _merged([schema for _, schema in schemas])

    def _head(self, file: SourceFile) -> pa.Schema | Exception:
        """Find the columns of one file, or what is wrong with it."""
        try:
            return self.source.sample_schema(self.place(file))
        except (*DECODING_FAULTS, ValueError) as error:
            if is_transport(error):
                raise storage_error("read", self.place(file).path, error) from error
            return error

    def _limited(self, layouts: list[Layout], columns: pa.Schema) -> list[Layout]:
        if self.spec.most_rows is None:
            return layouts
        by_name = {file.name: file for file in self.files}

        def position_after(piece: Piece, rows: int) -> tuple[int, int | None]:
            cursor = Cursor(
                self.source,
                Rows(self.spec.model_copy(update={"where": None}), columns),
                {piece.source: self.place(by_name[piece.source])},
                Span(0, (piece,)),
            )
            seen, readable = 0, True
            while seen < rows and (chunk := cursor.peek()) is not None:
                taken = cursor.take(min(len(chunk), rows - seen))
                seen += len(taken) if taken.is_record else 0
                readable = readable and taken.is_record
            if seen == rows:
                return seen, cursor.position
            return seen, cursor.piece_end() if readable else piece.end

        return list(limit_layouts(layouts, self.spec.most_rows, position_after))

    def head(self, plan: Plan, rows: int, completed: Completed = as_read) -> list[Any]:
        """Read the first texts, images or tensors of the plan that are no rejects, to be compared.

        Looks at no more than `_MOST_LOOKED_AT` records: with a `where` that lets hardly anything
        through there may be fewer.
        """
        contents: list[Any] = []
        looked_at = 0
        for records, embedded in self._contents(plan, completed):
            contents += embedded
            looked_at += records
            if len(contents) >= rows or looked_at >= _MOST_LOOKED_AT:
                break
        return contents[:rows]

    def _contents(self, plan: Plan, completed: Completed) -> Iterator[tuple[int, list[Any]]]:
        """Stream what the plan embeds: (records read, texts, images or tensors among them)."""
        places = {file.name: self.place(file) for file in plan.files}
        for span in plan.spans:
            cursor = Cursor(self.source, Rows(self.spec, plan.columns), places, span)
            for chunk in cursor.chunks():
                yield len(chunk), embeddable(chunk, self.spec.modality, completed)


def _merged(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Put the columns of several heads together; of types with none in common the first counts."""
    if len(schemas) == 1:
        return schemas[0]
    by_name: dict[str, list[pa.Field]] = {}
    for field in chain.from_iterable(schemas):
        by_name.setdefault(field.name, []).append(field)
    return pa.schema([(name, _merged_type(fields)) for name, fields in by_name.items()])


def _merged_type(fields: Sequence[pa.Field]) -> pa.DataType:
    kinds = [field.type for field in fields]
    if pa.uint64() in kinds:
        # Small numbers of one head are no reason to refuse the large ones of another.
        kinds = [field.type for field in fields if field.metadata != NATURAL or field.type == pa.uint64()]
    telling = [kind for kind in kinds if not pa.types.is_null(kind)] or kinds
    return common_type(telling) or telling[0]


def _changed_message(changed: dict[str, str]) -> str:
    listed = "; ".join(f"{name}: {what}" for name, what in list(changed.items())[:_NAMED])
    more = f"; and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return (
        f"{len(changed)} source files are not what this run planned: {listed}{more}. "
        'Restore them, or run with source.on_change="re-embed" to replace their vectors'
    )


def edge_spec(source: GraphSourceSpec) -> GraphSourceSpec:
    """Give the section of the edge table as a source of its own."""
    kept = {name: kind for name, kind in source.types.items() if name in source.edge_columns}
    changed = {"path": source.edges, "modality": "edge", "keep": (), "where": None, "types": kept}
    return source.model_copy(update=changed)


def open_edges(source: GraphSourceSpec) -> Corpus:
    """List the files of the edge table.

    Raises:
        SourceError: a path is missing or has no matching file.
    """
    return Corpus.open(edge_spec(source))

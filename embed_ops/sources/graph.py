"""The tables of a graph: the types of their columns, and what is embedded of a node."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.errors import SourceError
from embed_ops.sources.base import Records, Source
from embed_ops.sources.plan import FILES_OF_ROWS, Layout, Piece
from embed_ops.sources.registry import make_source
from embed_ops.sources.type_names import parse_type
from embed_ops.sources.types import meaning
from embed_ops.spec.source import GraphSourceSpec
from embed_ops.storage.files import Location

ID, FEATURES, CHOSEN = "id", "x", "chosen"
"""Fields of what is embedded: a node's id, its features as list<float32>, and whether `where` asks
for its vector."""
VECTOR = pa.list_(pa.float32())


class GraphSource:
    """Node or edge tables in Parquet or CSV, whichever a file's name says."""

    sharing = FILES_OF_ROWS

    def __init__(self, spec: GraphSourceSpec) -> None:
        self._parquet, self._csv = make_source(spec, "parquet"), make_source(spec, "csv")
        self.extensions = (*self._parquet.extensions, *self._csv.extensions)

    def _of(self, name: str) -> Source:
        return self._csv if name.lower().endswith(tuple(self._csv.extensions)) else self._parquet

    def seekable(self, at: Location) -> bool:
        """Tell what the file's format tells."""
        return self._of(at.path).seekable(at)

    def inspect(self, name: str, at: Location, size: int) -> Layout:
        """Find the stretches of one file."""
        return self._of(name).inspect(name, at, size)

    def sample_schema(self, at: Location) -> pa.Schema:
        """Read the columns of one file."""
        return self._of(at.path).sample_schema(at)

    def read(self, at: Location, piece: Piece, begin: int, schema: pa.Schema) -> Iterator[Records]:
        """Stream records."""
        return self._of(at.path).read(at, piece, begin, schema)


def graph_type(spec: GraphSourceSpec, name: str, kind: pa.DataType, where: str) -> pa.DataType:
    """Give the type that a column of a graph's table is read with.

    Ids are int64 or strings, all else float64 or lists of float32.

    Raises:
        SourceError: it holds something else.
        SpecError: `types` gives it a type that is none.
    """
    plain = meaning(kind)
    of_text = pa.types.is_string(plain)
    if name in ((spec.id,) if spec.modality == "node" else (spec.src, spec.dst)):
        if name in spec.types:
            plain = parse_type(name, spec.types[name])
        if pa.types.is_integer(plain):
            return pa.int64()
        if of_text or pa.types.is_null(plain) or pa.types.is_string(plain):
            return pa.string()
        raise SourceError(f"{where}: column {name!r} is {kind}; ids of nodes are integers or strings")
    if pa.types.is_list(plain):
        if pa.types.is_floating(plain.value_type) or pa.types.is_integer(plain.value_type):
            return VECTOR
    elif of_text or any(
        test(plain)
        for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    ):
        return pa.float64()
    raise SourceError(f"{where}: column {name!r} is {kind}; features are numbers, or vectors of them")


def vectors(table: pa.Table, names: tuple[str, ...]) -> pa.Array:
    """Join columns of numbers and of vectors to one list<float32> a row.

    Null where a number or a vector is.
    """
    if len(names) == 1 and pa.types.is_list(table.schema.field(names[0]).type):
        return table.column(names[0]).combine_chunks()
    parts, null = [], np.zeros(len(table), np.bool_)
    for name in names:
        column = table.column(name).combine_chunks()
        null |= column.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_list(column.type):
            raise SourceError(
                f"column {name!r} holds vectors: it must be the only one of its kind, not one of "
                f"{', '.join(names)}"
            )
        parts.append(pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype(np.float32))
    values = np.stack(parts, axis=1) if parts else np.zeros((len(table), 0), np.float32)
    offsets = pa.array(np.arange(len(table) + 1, dtype=np.int32) * len(names), mask=np.append(null, False))
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel())).cast(VECTOR)


def node_type(spec: GraphSourceSpec, schema: pa.Schema) -> pa.DataType:
    """Give the type of what is embedded of a node."""
    return pa.struct(
        [pa.field(ID, schema.field(spec.id).type), pa.field(FEATURES, VECTOR), pa.field(CHOSEN, pa.bool_())]
    )


def nodes(spec: GraphSourceSpec, table: pa.Table, chosen: npt.NDArray[np.bool_]) -> pa.ChunkedArray:
    """Make what is embedded: id, features, and whether `where` asks for the row's vector.

    All nodes take part in the graph.
    """
    fields = list(node_type(spec, table.schema))
    columns = [table.column(spec.id).combine_chunks(), vectors(table, spec.feature_columns), pa.array(chosen)]
    return pa.chunked_array([pa.StructArray.from_arrays(columns, fields=fields)])

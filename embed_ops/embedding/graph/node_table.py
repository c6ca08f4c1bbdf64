"""A graph's node table to arrays: one span of it, one bucket of its ids.

read_nodes    a span -> features, ids, and the units as they will be written
join_bucket   a bucket of ids out of all spans -> a part of the dictionary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.embedding.graph.job import WORK, GraphJob
from embed_ops.embedding.graph.notes import BucketNote, NodesNote, UnitRows
from embed_ops.embedding.message import to_block
from embed_ops.embedding.parts import parts_of
from embed_ops.embedding.steps import prepare_unit, units_of
from embed_ops.embedding.unit import PreparedUnit
from embed_ops.encoders.graph import ids as dictionary
from embed_ops.encoders.graph.arrays import read_batch, write_batches
from embed_ops.encoders.graph.encoder import X
from embed_ops.encoders.graph.partition import Ints
from embed_ops.runs.work import Work
from embed_ops.schema import CONTENT, INPUT
from embed_ops.sources.plan import Span

_PLACE = "_place"
"""Column of a row's number in its unit, while the unit is read."""


def read_nodes(graph: GraphJob, span: Span, buckets: int) -> NodesNote:
    """Read a span of the node table.

    Keeps features, ids by bucket, and each unit as it will be written, without its vectors.
    """
    blocks: list[pa.RecordBatch] = []
    features: list[npt.NDArray[np.float32]] = []
    ids: list[pa.Array] = []
    places: list[Ints] = []
    chosen: list[npt.NDArray[np.bool_]] = []
    units: list[UnitRows] = []
    rows = 0
    encoder, work = parts_of(graph.job).encoder, Work(span)
    for unit in units_of(graph.job, work):
        content = unit.table.column(CONTENT).combine_chunks()
        count = len(content)
        numbered = replace(unit, table=unit.table.append_column(_PLACE, pa.array(np.arange(count))))
        prepared = prepare_unit(numbered, encoder)
        asked = pc.fill_null(content.field("chosen"), True).to_numpy(zero_copy_only=False)
        kept, fine = _placed(prepared, asked)
        features.append(_features(prepared, fine, count))
        local = -1 - (rows + np.arange(count))
        local[fine] = rows + fine
        ids.append(content.field("id"))
        places.append(local)
        chosen.append(asked)
        blocks.append(to_block(kept).combine_chunks().to_batches()[0])
        units.append(UnitRows(unit.name, rows, count))
        rows += count
    name, run, attempt = f"nodes/{span.index:06d}", graph.job.run, graph.job.attempt
    all_ids, all_places, all_chosen = pa.concat_arrays(ids), np.concatenate(places), np.concatenate(chosen)
    by_bucket = dictionary.split_by_bucket(all_ids, all_places, buckets)
    write_batches(run, f"{WORK}/{name}.units", blocks, attempt)
    write_batches(run, f"{WORK}/{name}.ids", by_bucket, attempt)
    graph.keep(f"{name}.x", np.concatenate(features))
    graph.keep(f"{name}.chosen", all_chosen)
    note = NodesNote(
        rows=rows,
        units=tuple(units),
        first_id=_first_of_consecutive(all_ids, all_places),
        all_chosen=bool(all_chosen.all()),
    )
    return graph.note(name, note)


def _first_of_consecutive(ids: pa.Array, places: Ints) -> int | None:
    """Give the first id if ids are integers that count up by one and no row is a reject."""
    if not pa.types.is_int64(ids.type) or ids.null_count or (places < 0).any() or not len(ids):
        return None
    values = ids.to_numpy()
    return int(values[0]) if (np.diff(values) == 1).all() else None


def _features(prepared: PreparedUnit, fine: Ints, rows: int) -> npt.NDArray[np.float32]:
    """Give the features of a unit, (rows, width), zeros in rows that are not fine."""
    column = prepared.inputs.column(X).combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values: npt.NDArray[np.float32] = (
        column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    )
    features = np.zeros((rows, values.shape[1]), np.float32)
    features[fine] = values
    return features


def _placed(prepared: PreparedUnit, asked: npt.NDArray[np.bool_]) -> tuple[PreparedUnit, Ints]:
    """Keep the rows that get a vector.

    Gives the unit without its inputs, and the places in it that are fine.
    """
    rows, rejects = prepared.rows, prepared.rejects
    places = rows.column(_PLACE).to_numpy()
    wanted = asked[places]
    rows = rows.drop_columns([_PLACE, INPUT]).append_column(INPUT, rows.column(_PLACE).cast(pa.int32()))
    # A broken record is a reject whatever `where` says: nobody can tell.
    refused = asked[rejects.column(_PLACE).to_numpy()]
    filtered = int((~wanted).sum() + (~refused).sum())
    unit = replace(
        prepared,
        head=replace(prepared.head, filtered=prepared.head.filtered + filtered),
        rows=rows.filter(pa.array(wanted)),
        inputs=prepared.inputs.slice(0, 0),
        rejects=rejects.filter(pa.array(refused)).drop_columns([_PLACE]),
    )
    return unit, places


def join_bucket(graph: GraphJob, bucket: int, spans: Sequence[int], offsets: Sequence[int]) -> BucketNote:
    """Make one bucket of the dictionary.

    Args:
        graph: the job.
        bucket: its number.
        spans: the indexes of the node table's spans.
        offsets: places that come before each span.
    """
    batches = [read_batch(graph.work, f"nodes/{span:06d}.ids", bucket) for span in spans]
    table, again = dictionary.join_bucket(batches, list(offsets))
    write_batches(graph.job.run, f"{WORK}/ids/{bucket:06d}", [table], graph.job.attempt)
    graph.keep(f"ids/{bucket:06d}.again", again)
    return graph.note(f"ids/{bucket:06d}", BucketNote(again=len(again)))

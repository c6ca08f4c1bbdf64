"""The rows that the page shows: their vectors, kept columns, texts or thumbnails, and clusters."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.analysis.page.thumbnails import Thumbnails
from embed_ops.errors import EmbedOpsError, StageError
from embed_ops.numerics.topk import Ints, Vectors
from embed_ops.postprocessing.asked import STAGES
from embed_ops.runs.columns import VectorColumn, read_columns, stored_unit
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED
from embed_ops.runs.rows import RunRows
from embed_ops.runs.sample import Chosen, Texts, choose
from embed_ops.schema import RESERVED, ROW, SOURCE
from embed_ops.sources.base import hive_columns
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import Location
from embed_ops.terminal import plain

UNITS = 64
"""Units that are read at most."""
_LONGEST = 160
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Sample:
    """Rows of a run.

    Attributes:
        ids: (rows,) indexes; `x`: (rows, dim) vectors; `column`: their name.
        kept: columns that were kept, as text, by name; `keys`: source file and position of each
            row.
        numbers: names of the kept columns that hold numbers.
        texts: of the source, where they could be read again.
        thumbnails: of images, as data addresses, None for a row without one; None where the source
            holds no images.
        clusters: (rows,), None where there are none; `distance`: to their centres.
        label: kept column or folder that the clusters were held against, None where there is none.
        sizes: rows of the largest clusters in the whole run.
        broken: rows that were left out: not all numbers of their vectors are finite.
    """

    ids: Ints
    x: Vectors
    column: str
    kept: dict[str, list[str]]
    keys: list[tuple[str, int]]
    numbers: frozenset[str]
    texts: list[str] | None
    thumbnails: list[str | None] | None
    clusters: Ints | None
    distance: npt.NDArray[np.float64] | None
    label: str | None
    sizes: dict[int, int]
    broken: int

    @property
    def names(self) -> list[str]:
        """Name each row by the kept column with the most values, else its text, else its place."""
        longest = max(self.kept, key=lambda name: len(set(self.kept[name])), default=None)
        if longest is not None and len(set(self.kept[longest])) > len(self.ids) // 2:
            return self.kept[longest]
        if self.texts is not None:
            return [shortened(text) for text in self.texts]
        return [f"{source}, row {row}" for source, row in self.keys]


def read_sample(root: Location, most: int, seed: int, column: str | None) -> tuple[Sample | None, str]:
    """Read some rows of a finished run; None where there are none to show, and why.

    Raises:
        StageError: there is no such vector column.
    """
    rows = RunRows(root)
    try:
        vectors = rows.vector(column)
    except StageError as error:
        if column is not None:
            raise
        return None, str(error)
    kept = tuple(name for name in rows.names(len(rows.lineage) - 1) if name not in RESERVED)
    clustered, label = clusters_below(rows)
    pictures = Thumbnails.open(rows, min(most, rows.rows))
    reader = _SampleReader(rows, vectors, kept, clustered, texts_of(rows), pictures)
    parts = [reader.read(chosen) for chosen in choose(rows, most, seed, UNITS)]
    broken = sum(part.broken for part in parts)
    if parts := [part for part in parts if part.keys]:
        return replace(_joined(parts), sizes=_sizes(clustered), broken=broken, label=label), ""
    if broken:
        return None, f"none of the {broken:,} sampled vectors is finite: see `embed-ops verify`"
    return None, "no row was chosen: the run is smaller than its sample of units"


@dataclass(frozen=True)
class _SampleReader:
    """Reads the rows that were chosen of one unit, with all that is shown of them."""

    rows: RunRows
    vectors: VectorColumn
    kept: tuple[str, ...]
    clustered: VectorColumn | None
    texts: Texts | None
    thumbnails: Thumbnails | None

    def read(self, chosen: Chosen) -> Sample:
        unit, rows = chosen.record.unit, chosen.record.rows
        x = stored_unit(self.vectors, unit, rows)[chosen.places]
        finite = np.isfinite(x).all(axis=1)
        places = chosen.places[finite]
        base = self.rows.lineage[-1][0]
        table = read_columns(base, unit, [SOURCE, ROW, *self.kept], rows).take(pa.array(places))
        folders = {name: [value or ""] * len(table) for name, value in hive_columns(unit).items()}
        columns = {name: [shortened(value) for value in table.column(name).to_pylist()] for name in self.kept}
        texts = None
        if self.texts is not None:
            texts = [text or "" for text in self.texts.of(chosen.record, table)]
        clusters = distance = None
        if self.clustered is not None:
            named = ["cluster", "distance"]
            near = read_columns(self.clustered.run, unit, named, rows).take(pa.array(places))
            clusters = near.column("cluster").to_numpy().astype(np.int64)
            distance = near.column("distance").to_numpy().astype(np.float64)
        return Sample(
            ids=self.rows.starts[chosen.number] + places,
            x=x[finite],
            column=self.vectors.column,
            kept=folders | columns,
            keys=list(zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True)),
            numbers=frozenset(name for name in self.kept if _is_number(table.schema.field(name).type)),
            texts=texts,
            thumbnails=None if self.thumbnails is None else self.thumbnails.of(chosen.record, table),
            clusters=clusters,
            distance=distance,
            label=None,
            sizes={},
            broken=int((~finite).sum()),
        )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _joined(parts: Sequence[Sample]) -> Sample:
    """Put samples of units one behind the other; columns that not all have are left out."""
    names = [name for name in parts[0].kept if all(name in part.kept for part in parts)]
    texts = [part.texts for part in parts if part.texts is not None]
    thumbnails = [part.thumbnails for part in parts if part.thumbnails is not None]
    clusters = [part.clusters for part in parts if part.clusters is not None]
    distances = [part.distance for part in parts if part.distance is not None]
    return replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        x=np.concatenate([part.x for part in parts]),
        kept={name: [value for part in parts for value in part.kept[name]] for name in names},
        keys=[key for part in parts for key in part.keys],
        texts=[text for part in texts for text in part] if texts else None,
        thumbnails=[image for part in thumbnails for image in part] if thumbnails else None,
        clusters=np.concatenate(clusters) if clusters else None,
        distance=np.concatenate(distances) if distances else None,
    )


def clusters_below(rows: RunRows) -> tuple[VectorColumn | None, str | None]:
    """Find clusters of a run's rows, and the column that they were held against.

    In its lineage, or in a stage below it.
    """
    with contextlib.suppress(EmbedOpsError):
        holder = rows.holder("cluster")
        return holder, _label_of(RunDir(holder.run))
    for name in folders_of(rows.root.child(STAGES)):
        place = rows.root.child(f"{STAGES}/{name}")
        header = RunDir(place).read_header()
        if header is not None and header.spec.get("kind") == "kmeans" and header.status == FINISHED:
            with contextlib.suppress(EmbedOpsError):
                return RunRows(place).holder("cluster"), _label_of(RunDir(place))
    return None, None


def _label_of(run: RunDir) -> str | None:
    header = run.read_header()
    label = None if header is None else header.spec.get("label")
    return None if label is None else str(label)


def folders_of(place: Location) -> list[str]:
    """Name the folders in a place, in order; none where there is nothing."""
    from pyarrow import fs as pafs

    listed = place.fs.get_file_info(pafs.FileSelector(place.path, allow_not_found=True))
    return sorted(item.base_name for item in listed if item.type == pafs.FileType.Directory)


def _sizes(clustered: VectorColumn | None) -> dict[int, int]:
    """Read how many rows the largest clusters have, of all rows."""
    report = None if clustered is None else RunDir(clustered.run).read_json("report.json")
    largest = ((report or {}).get("quality") or {}).get("largest_clusters") or {}
    return {int(cluster): rows for cluster, rows in largest.items()}


def texts_of(rows: RunRows) -> Texts | None:
    """Open the source of the texts, None where there is none to be read."""
    with contextlib.suppress(EmbedOpsError, OSError, pa.ArrowException):
        return Texts(Spec.parse(rows.lineage[-1][1].spec), rows.lineage[-1][0])
    return None


def shortened(value: Any) -> str:
    """Give a value as text of a length that can be shown."""
    text = "" if value is None else plain(" ".join(str(value).split()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."

"""What the page of a run is made of: its report, its records, and a sample of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.errors import EmbedOpsError, RunError, StageError
from embed_ops.numerics.topk import Ints, Vectors
from embed_ops.postprocessing.asked import STAGES
from embed_ops.runs.columns import VectorColumn, read_columns, stored_unit
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED, RunHeader
from embed_ops.runs.parquet import read_table
from embed_ops.runs.record import REJECTS, Record
from embed_ops.runs.rows import RunRows
from embed_ops.runs.run import Run
from embed_ops.runs.sample import Chosen, Texts, choose
from embed_ops.schema import MESSAGE, REASON, RESERVED, ROW, SOURCE
from embed_ops.sources.base import hive_columns
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import Location
from embed_ops.terminal import plain, plain_line

_UNITS = 64
_MOST_REJECTS = 5
_LONGEST = 160
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Sample:
    """Rows of a run.

    Attributes:
        ids: (rows,) indexes; `x`: (rows, dim) vectors; `column`: their name.
        kept: columns that were kept, as text, by name; `keys`: source file and position of each
            row.
        texts: of the source, where they could be read again.
        clusters: (rows,), None where there are none; `distance`: to their centres.
        sizes: rows of the largest clusters in the whole run.
        broken: rows that were left out: not all numbers of their vectors are finite.
    """

    ids: Ints
    x: Vectors
    column: str
    kept: dict[str, list[str]]
    keys: list[tuple[str, int]]
    texts: list[str] | None
    clusters: Ints | None
    distance: npt.NDArray[np.float64] | None
    sizes: dict[int, int]
    broken: int


@dataclass(frozen=True)
class Gathered:
    """Everything that is shown.

    Attributes:
        run: the run; `header`: of its embedding; `report`: of its embedding, {} where there is none
            yet.
        records: of the run's units; `planned`: rows of the source of a run that is not finished,
            None where not known.
        reasons: rejects by reason; `rejects`: some of them, {reason: messages}.
        sample: of its rows, None where there are none; `why_no_sample`: a sentence.
        stages: kind and report of each stage below the run.
    """

    run: Run
    header: RunHeader
    report: dict[str, Any]
    records: list[Record]
    reasons: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, list[str]] = field(default_factory=dict)
    sample: Sample | None = None
    why_no_sample: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    planned: int | None = None


def gather_page(path: str, most: int, seed: int, column: str | None) -> Gathered:
    """Read what is shown of a run.

    Raises:
        RunError: there is no run.
        StageError: there is no such vector column.
    """
    run = Run(path)
    records = list(run.records().values())
    report: dict[str, Any] = {}
    with contextlib.suppress(EmbedOpsError):
        report = run.report
    reasons, messages = _rejects(run, records)
    sample, why = None, ""
    if run.status == FINISHED and any(record.rows > 0 for record in records):
        sample, why = _sample(RunDir.at(path).root, most, seed, column)
    else:
        why = (
            "the run has no rows"
            if run.status == FINISHED
            else f"the run is {run.status}: finish it to see its vectors"
        )
    return Gathered(
        run,
        run.header,
        report,
        records,
        reasons,
        messages,
        sample,
        why,
        _stages(RunDir.at(path).root),
        _planned(run),
    )


def _rejects(run: Run, records: Sequence[Record]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Count rejects by reason, and word the first few of each."""
    reasons: dict[str, int] = {}
    messages: dict[str, list[str]] = {}
    if run.is_stage or not any(record.rejects > 0 or record.file_rejects > 0 for record in records):
        return reasons, messages
    root = RunDir.at(run.path).root
    for file in sorted(record.reject_file for record in records if record.reject_file):
        table, _ = read_table(root, f"{REJECTS}/{file}", [REASON, MESSAGE, SOURCE, ROW])
        for counted in pc.value_counts(table.column(REASON)).to_pylist():
            reason, listed = counted["values"], messages.setdefault(counted["values"], [])
            reasons[reason] = reasons.get(reason, 0) + counted["counts"]
            of_reason = table.filter(pc.equal(table.column(REASON), reason))
            some = of_reason.slice(0, _MOST_REJECTS - len(listed)).to_pylist()
            listed += [plain_line(f"{row[SOURCE]}, row {row[ROW]}: {row[MESSAGE]}") for row in some]
    return reasons, messages


def _planned(run: Run) -> int | None:
    """Count the rows that a run which is not finished is to have; where it is, its records tell."""
    place = RunDir.at(run.path)
    if run.status != FINISHED:
        with contextlib.suppress(RunError):
            return place.read_plan().rows
    return None


def _stages(root: Location) -> list[dict[str, Any]]:
    """Read the reports of the stages below a run."""
    reports = []
    for name in _folders(root.child(STAGES)):
        report = RunDir(root.child(f"{STAGES}/{name}")).read_json("report.json")
        if report is not None:
            reports.append({"name": name, **report})
    return reports


def _folders(place: Location) -> list[str]:
    from pyarrow import fs as pafs

    listed = place.fs.get_file_info(pafs.FileSelector(place.path, allow_not_found=True))
    return sorted(item.base_name for item in listed if item.type == pafs.FileType.Directory)


def _sample(root: Location, most: int, seed: int, column: str | None) -> tuple[Sample | None, str]:
    """Read some rows of a finished run; None where there are none to show, and why."""
    rows = RunRows(root)
    try:
        vectors = rows.vector(column)
    except StageError as error:
        if column is not None:
            raise
        return None, str(error)
    kept = tuple(name for name in rows.names(len(rows.lineage) - 1) if name not in RESERVED)
    reader = _SampleReader(rows, vectors, kept, _clustered(rows), _texts(rows))
    parts = [reader.read(chosen) for chosen in choose(rows, most, seed, _UNITS)]
    broken = sum(part.broken for part in parts)
    if parts := [part for part in parts if part.keys]:
        return replace(_joined(parts), sizes=_sizes(reader.clustered), broken=broken), ""
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
            near = read_columns(self.clustered.run, unit, ["cluster", "distance"], rows).take(
                pa.array(places)
            )
            clusters = near.column("cluster").to_numpy().astype(np.int64)
            distance = near.column("distance").to_numpy().astype(np.float64)
        return Sample(
            ids=self.rows.starts[chosen.number] + places,
            x=x[finite],
            column=self.vectors.column,
            kept=folders | columns,
            keys=list(zip(table.column(SOURCE).to_pylist(), table.column(ROW).to_pylist(), strict=True)),
            texts=texts,
            clusters=clusters,
            distance=distance,
            sizes={},
            broken=int((~finite).sum()),
        )


def _joined(parts: Sequence[Sample]) -> Sample:
    """Put samples of units one behind the other; columns that not all have are left out."""
    names = [name for name in parts[0].kept if all(name in part.kept for part in parts)]
    texts = [part.texts for part in parts if part.texts is not None]
    clusters = [part.clusters for part in parts if part.clusters is not None]
    distances = [part.distance for part in parts if part.distance is not None]
    return replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        x=np.concatenate([part.x for part in parts]),
        kept={name: [value for part in parts for value in part.kept[name]] for name in names},
        keys=[key for part in parts for key in part.keys],
        texts=[text for part in texts for text in part] if texts else None,
        clusters=np.concatenate(clusters) if clusters else None,
        distance=np.concatenate(distances) if distances else None,
    )


def _clustered(rows: RunRows) -> VectorColumn | None:
    """Find clusters of a run's rows: in its lineage, or in a stage below it."""
    with contextlib.suppress(EmbedOpsError):
        return rows.holder("cluster")
    for name in _folders(rows.root.child(STAGES)):
        place = rows.root.child(f"{STAGES}/{name}")
        header = RunDir(place).read_header()
        if header is not None and header.spec.get("kind") == "kmeans" and header.status == FINISHED:
            with contextlib.suppress(EmbedOpsError):
                return RunRows(place).holder("cluster")
    return None


def _sizes(clustered: VectorColumn | None) -> dict[int, int]:
    """Read how many rows the largest clusters have, of all rows."""
    report = None if clustered is None else RunDir(clustered.run).read_json("report.json")
    largest = ((report or {}).get("quality") or {}).get("largest_clusters") or {}
    return {int(cluster): rows for cluster, rows in largest.items()}


def _texts(rows: RunRows) -> Texts | None:
    """Open the source of the texts, None where there is none to be read."""
    with contextlib.suppress(EmbedOpsError, OSError, pa.ArrowException):
        return Texts(Spec.parse(rows.lineage[-1][1].spec), rows.lineage[-1][0])
    return None


def shortened(value: Any) -> str:
    """Give a value as text of a length that can be shown."""
    text = "" if value is None else plain(" ".join(str(value).split()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."

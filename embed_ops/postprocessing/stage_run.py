"""A stage's run directory: where it is, what it must agree with, what is done, and how it is begun and ended."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileType

from embed_ops.errors import RunError, StageError
from embed_ops.postprocessing.search import make_search
from embed_ops.postprocessing.stage_job import WORK, StageJob
from embed_ops.runs.columns import Label
from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import digest_of, require_same, versions_of
from embed_ops.runs.header import FINISHED, RUN_JSON, RunHeader
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.models import MODEL_ARRAYS, MODEL_JSON, read_model, read_probe
from embed_ops.runs.record import Record
from embed_ops.runs.rows import RunRows, told_parent
from embed_ops.runs.writer import RunWriter, known_header
from embed_ops.sources.plan import Piece, Plan, SourceFile, Span
from embed_ops.spec.stage import ClassifySpec, NeighborsSpec, StageSpec
from embed_ops.stages.base import Stage
from embed_ops.stages.registry import make_stage
from embed_ops.storage.files import file_info, locate, read_bytes, remove, remove_folder
from embed_ops.storage.packing import content_digest

STAGES = "stages"
_NOT_COMPARED = ("name", "input", "seed")
_NO_COLUMNS = pa.schema([])


@dataclass(frozen=True)
class Asked:
    """One stage that is asked for.

    Attributes:
        spec: its section.
        path: address of its run directory.
        input: address of the run that it reads.
        seed: of everything that draws.
        model: address of a run whose model is applied instead of fitting one.
    """

    spec: StageSpec
    path: str
    input: str
    seed: int
    model: str | None = None


def asked_stages(
    run: str, stages: tuple[StageSpec, ...], seed: int, output: str | None = None, model: str | None = None
) -> list[Asked]:
    """Say where each of a list of stages reads and writes.

    Raises:
        StageError: two have one name, an input is no stage before it, or `output` or `model` is
            given for several.
    """
    if len(stages) != 1 and (output or model):
        raise StageError(
            f"an output folder or a model can be named for one stage, and there are {len(stages)}"
        )
    found: list[Asked] = []
    known = {"embed": run}
    before = run
    for spec in stages:
        if spec.folder in known:
            raise StageError(f"stage {spec.folder!r}: another stage has this name; give it one by `name`")
        if spec.input is not None and spec.input not in known:
            raise StageError(f"stage {spec.folder!r}: input = {spec.input!r} is none of {', '.join(known)}")
        path = output or f"{run.rstrip('/')}/{STAGES}/{spec.folder}"
        found.append(
            Asked(
                spec,
                path,
                before if spec.input is None else known[spec.input],
                spec.seed if spec.seed is not None else seed,
                model,
            )
        )
        before = known[spec.folder] = path
    return found


@dataclass
class StageRun(RunWriter):
    """One command on a stage's run directory."""

    asked: Asked
    rows: RunRows
    job: StageJob
    records: dict[str, Record]
    model: Any
    skipped: int = 0

    def __post_init__(self) -> None:
        """Make what every writer has, and count the units that are skipped."""
        super().__post_init__()
        self.skipped = len(self.done)

    @property
    def done(self) -> set[str]:
        """Units that are written."""
        return {record.unit for record in self.rows.records if record.unit in self.records}

    @property
    def finished(self) -> bool:
        """Whether an earlier command came to its end and nothing has been lost since."""
        return (
            self.header.status == FINISHED
            and self.model is not None
            and len(self.done) == len(self.rows.records)
        )

    def begin(self) -> None:
        """Publish what the run is, before anything is computed."""
        super().begin()
        self.run.write_plan(plan_of(self.rows.records), self.name)

    @property
    def stage(self) -> Stage:
        """What is fitted by rounds."""
        return make_stage(self.asked.spec)

    @property
    def label(self) -> Label | None:
        """Column to compare clusters with."""
        name = getattr(self.asked.spec, "label", None)
        return None if name is None else self.rows.label(name)

    def take(self, result: Mapping[str, Any]) -> Record:
        """Keep the record of a unit that is written."""
        record = Record.parse(result["record"])
        self.records[record.unit] = record
        self.journal.add(record, result["statistics"])
        return record

    def clear_work(self) -> None:
        """Delete what the fit has kept: the model and the data say it all."""
        remove_folder(self.run.root, WORK)


def plan_of(records: tuple[Record, ...]) -> Plan:
    """Plan a stage's run: a span for each unit of its input, so that `verify` can follow them."""
    spans, files = [], {}
    for number, record in enumerate(records):
        begin = record.unit.rpartition(".")
        pieces = [
            Piece(part["source"], part["begin"], part["end"], part["records"], 0) for part in record.ranges
        ]
        spans.append(Span(number, tuple(pieces or [Piece(begin[0], int(begin[2]), None, None, 0)])))
        for piece in spans[-1].pieces:
            files[piece.source] = SourceFile(piece.source, 0, 0, 0)
    return Plan(tuple(files.values()), tuple(spans), _NO_COLUMNS)


def open_stage(asked: Asked, *, refit: bool = False) -> StageRun:
    """Compare a stage with its run directory and its input.

    Nothing is written but records that were lost.

    Raises:
        RunError: the input is not finished, or the run directory is another stage's, or of another
            input.
        StageError: the stage can't be fitted on this input.
    """
    began = time.time()
    rows = RunRows(locate(asked.input))
    run = RunDir(locate(asked.path))
    vectors = rows.vector(asked.spec.column)
    attempt = new_attempt()
    applied = None if asked.model is None else _foreign_model(asked)
    found = _fingerprint(
        asked, rows, vectors.column, "" if vectors.run == rows.root else RunRows(vectors.run).content
    )
    if refit:
        _empty(run)
    header = known_header(run)
    if header is None:
        header = RunHeader.new({}, found, {"versions": _versions()}, began)
    require_same(asked.path, header.fingerprint, found)
    tree, parent = asked.spec.model_dump(mode="json"), told_parent(run.root, rows.root)
    header = replace(header, spec=tree, parent=parent)
    output = getattr(asked.spec, "output", None) or vectors.column
    digest = digest_of(found)
    job = StageJob(asked.spec, run.root, rows.root, vectors, rows.rows, asked.seed, output, digest, attempt)
    records, _ = run.load_records(digest, attempt) if header.attempts else ({}, [])
    model = applied or read_model(run.root.child("model"))
    if model is not None and model.dim not in (None, vectors.dim):
        raise StageError(
            f"{asked.model or asked.path}: its model takes vectors of width {model.dim}, "
            f"{vectors.run.path} has {vectors.dim}"
        )
    here = StageRun(run, attempt, began, header, asked, rows, job, records, model)
    _require_columns(here)
    if not here.finished and not here.fresh:
        require_same(asked.path, header.resolved["versions"], _versions())
    return here


def _require_columns(here: StageRun) -> None:
    """Look for the columns that a stage reads beside the vectors, before anything is fitted."""
    _ = here.label
    if isinstance(here.asked.spec, ClassifySpec):
        if here.asked.model is not None:
            raise StageError("classify: the model is its probe: leave --model out")
        probe = read_probe(here.asked.spec.probe)
        if probe.dim != here.job.vectors.dim:
            raise StageError(
                f"{here.asked.spec.probe}: takes vectors of width {probe.dim}, "
                f"{here.job.vectors.run.path} has {here.job.vectors.dim}"
            )
    if isinstance(here.asked.spec, NeighborsSpec):
        if here.asked.model is not None:
            raise StageError("neighbors: has no model to apply: neighbours are found among the rows of a run")
        make_search(
            here.rows, here.job.vectors, here.asked.spec.k, here.asked.spec.metric, here.asked.spec.probe
        )
    if here.asked.spec.kind == "dedup":
        if here.asked.model is not None:
            raise StageError("dedup: has no model to apply: duplicates are found among the rows of a run")
        for column in ("cluster", "distance"):
            try:
                here.rows.holder(column)
            except StageError as error:
                raise StageError(
                    f"{error}; dedup works within clusters: give it the run of a kmeans stage"
                ) from error


def _versions() -> dict[str, str]:
    return versions_of("numpy", "pyarrow")


def _fingerprint(asked: Asked, rows: RunRows, column: str, of_vectors: str) -> dict[str, Any]:
    """List what decides a stage's bytes: its section, the seed, and what its input holds."""
    tree = {
        name: value for name, value in asked.spec.model_dump(mode="json").items() if name not in _NOT_COMPARED
    }
    found: dict[str, Any] = {f"stage.{name}": value for name, value in tree.items()}
    found |= {
        "stage.column": column,
        "seed": asked.seed,
        "input": rows.content,
        "input of the column": of_vectors,
    }
    if asked.model is not None:
        found["model"] = _digest_of_model(asked.model)
    if isinstance(asked.spec, ClassifySpec):
        # What the probe is decides the labels; where it lies changes nothing.
        found["stage.probe"] = content_digest(read_probe(asked.spec.probe))
    return found


def _digest_of_model(address: str) -> str:
    folder = locate(address).child("model")
    return hashlib.sha256(
        b"".join(read_bytes(folder.child(name)) or b"" for name in (MODEL_JSON, MODEL_ARRAYS))
    ).hexdigest()[:16]


def _foreign_model(asked: Asked) -> Any:
    model = read_model(locate(asked.model or "").child("model"))
    if model is None:
        raise StageError(
            f"{asked.model}: no fitted model here (model/{MODEL_JSON} is missing); give the run of a stage"
        )
    if model.kind != asked.spec.kind:
        raise StageError(
            f"{asked.model}: holds a model of kind {model.kind!r}, the stage is {asked.spec.kind!r}"
        )
    return model


def _empty(run: RunDir) -> None:
    """Delete an earlier fit and what it gave; only in the run of a stage."""
    run.require_folder()
    header = run.read_header()
    if header is None:
        return
    if header.parent is None:
        raise RunError(
            f"{run.root.path}: is not the run of a stage: nothing is deleted there; choose another "
            "output folder"
        )
    for folder in ("data", "rejects", "manifest", "model", "clusters", WORK):
        remove_folder(run.root, folder)
    remove(run.root.child("report.json"))
    remove(run.root.child(RUN_JSON))


def is_run(address: str) -> bool:
    """Tell whether an address is a run directory."""
    return bool(file_info(locate(address).child(RUN_JSON)).type == FileType.File)

"""A run, for Python: open its vectors, its report, its records."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import fs as pafs

from embed_ops.errors import RunError
from embed_ops.redaction import redacted
from embed_ops.runs.digests import DIGESTS_JSON, REPORT, unchanged
from embed_ops.runs.directory import RunDir
from embed_ops.runs.header import FINISHED, RunHeader
from embed_ops.runs.joined import JoinedRows
from embed_ops.runs.record import DATA, REJECTS, Record
from embed_ops.runs.rows import parent_of
from embed_ops.schema import MESSAGE, REASON, ROW, SOURCE, SOURCE_TYPE
from embed_ops.spec.spec import Spec

REJECT_COLUMNS = {SOURCE: SOURCE_TYPE, ROW: pa.int64(), REASON: pa.string(), MESSAGE: pa.string()}


TRUST = "EMBED_OPS_TRUST_REMOTE_CODE"


def require_trust(spec: Spec, path: str) -> Spec:
    """Give the spec of a run back, if its model may be loaded on the run's word alone.

    Who asks for the Python code of a model says so in a spec; in `run.json` somebody else may have.

    Raises:
        RunError: the model brings code, and nobody has said here that it may run.
    """
    if spec.encoder.trust_remote_code and os.environ.get(TRUST) != "1":
        raise RunError(
            f"{path}: its run.json says that Python code which comes with the model may run "
            f"({redacted(spec.encoder.model)}): set {TRUST}=1 if you trust whoever made this run"
        )
    return spec


class Run:
    """What a run directory holds.

    Raises:
        RunError: there is no run at `path`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._dir = RunDir.at(path)
        header = self._dir.read_header()
        if header is None:
            raise RunError(f"{path}: no run here (run.json is missing); give the sink.path of an `embed` run")
        self.header: RunHeader = header

    @cached_property
    def spec(self) -> Spec:
        """The spec that the run was started with.

        Raises:
            RunError: it is the run of a stage, which has a section and no spec.
        """
        if self.is_stage:
            raise RunError(f"{self.path}: is the run of a stage; give the `embed` run that it was made from")
        return Spec.parse(self.header.spec)

    @property
    def is_stage(self) -> bool:
        """Whether a stage made it, from the run that `header.parent` names."""
        return self.header.parent is not None

    @property
    def status(self) -> str:
        """`running`, `stopped` or `finished`."""
        return self.header.status

    @cached_property
    def report(self) -> dict[str, Any]:
        """The figures of the latest attempt.

        Raises:
            RunError: no attempt came to its end yet, or the file was changed since.
        """
        report = self._dir.read_json(REPORT)
        if report is None:
            raise RunError(
                f"{self.path}: no {REPORT} yet; run the same `embed` command again to finish the run"
            )
        if self.status == FINISHED and not unchanged(self._dir.root, REPORT, self.header.digests):
            raise RunError(
                f"{self.path}/{REPORT}: is not as the run wrote it: {DIGESTS_JSON} has another checksum; "
                "run the same command again"
            )
        return report

    @property
    def exit_code(self) -> int:
        """0; 1 where rejects exceed `max_reject_fraction` or a file broke off while it was read."""
        report = self.report
        if self.is_stage:
            return 0
        rejected = report["rejected"] + report["file_rejects"]
        share = rejected / max(1, rejected + report["rows"])
        return int(share > self.spec.max_reject_fraction or report["file_rejects"] > 0)

    def records(self) -> dict[str, Record]:
        """Read the manifest: a record per unit, by name."""
        return self._dir.manifest.read()

    def open(self) -> pads.Dataset | JoinedRows:
        """Open the vectors as a pyarrow dataset; hive folders are columns.

        The run of a stage gives the columns of the runs that it was made from as well, those that
        it does not have itself, in an object that answers as a dataset does. Where its parent is
        gone it gives its own.

        Raises:
            RunError: no unit is done yet, or a run that the stage was made from has changed since.
        """
        place = self._dir.root.child(DATA)
        if place.fs.get_file_info(place.path).type != pafs.FileType.Directory:
            raise RunError(f"{self.path}: no unit is done yet; run its `embed` command")
        own = pads.dataset(
            place.path, format="parquet", partitioning="hive", filesystem=place.fs, ignore_prefixes=[]
        )
        parent = self.header.parent
        if parent is None or RunDir(parent_of(self._dir.root, parent)).read_header() is None:
            return own
        return JoinedRows(self._dir.root, own)

    def rejects(self) -> pads.Dataset:
        """Open the rejects that the data files name as a pyarrow dataset."""
        named = sorted(record.reject_file for record in self.records().values() if record.reject_file)
        if not named:
            return pads.dataset(pa.table({name: pa.array([], kind) for name, kind in REJECT_COLUMNS.items()}))
        place = self._dir.root.child(REJECTS)
        return pads.dataset([place.child(name).path for name in named], format="parquet", filesystem=place.fs)

    def dataset(self) -> Any:
        """Open the vectors as a Ray Dataset."""
        import ray.data

        place = self._dir.root.child(DATA)
        return ray.data.read_parquet(place.path, filesystem=place.fs)

"""What `run.json` says: what a run is, and how far it has come."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any, Self

from embed_ops.errors import RunError
from embed_ops.redaction import redacted_tree

RUN_JSON = "run.json"
FORMAT = 1
"""Number of the layout of a run directory that this version writes, and the latest it reads."""
NEW, RUNNING, STOPPED, FINISHED = "new", "running", "stopped", "finished"
"""What `status` says; `new` is never written."""
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "spec": dict,
    "fingerprint": dict,
    "resolved": dict,
    "status": str,
    "started": (int, float),
    "finished": (int, float, NoneType),
    "attempts": list,
    "parent": (str, NoneType),
}
_LATER: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "measured": dict,
    "fit": dict,
    "space": str,
    "digests": str,
}
"""What `run.json` holds, and of which types; what comes later is left out until it is known."""
CHECKSUM = "checksum"
"""Key of the sha256 of all else in `run.json`."""


@dataclass(frozen=True)
class AttemptEntry:
    """One command that has worked on the run.

    Attributes:
        attempt: its name: host, process and start.
        started, finished: seconds since 1970; `finished` is None for one that met no end.
        figures: what the entry keeps of the report, by the report's names.
    """

    attempt: str
    started: float
    finished: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self:
        """Read one entry of `attempts`."""
        own = ("attempt", "started", "finished")
        figures = {name: value for name, value in entry.items() if name not in own}
        return cls(str(entry["attempt"]), float(entry["started"]), entry.get("finished"), figures)

    def tree(self) -> dict[str, Any]:
        """Give the entry as JSON values."""
        end = {} if self.finished is None else {"finished": self.finished}
        return {"attempt": self.attempt, "started": self.started, **end, **self.figures}


@dataclass(frozen=True)
class Fit:
    """What fitting a stage has taken: seconds, and passes over the rows."""

    seconds: float
    rounds: int


@dataclass(frozen=True)
class RunHeader:
    """The content of `run.json`.

    Attributes:
        id: 32 hexadecimal digits, drawn once for a run; no fingerprint has it.
        spec: of the latest command, as a tree of JSON values; the section of a stage for its run.
        fingerprint: all that decides the bytes of the vectors, by name.
        resolved: what "auto" became, and the versions of the packages that compute.
        started, finished: seconds since 1970; `finished` is None until the run is.
        status: `running`, `stopped` or `finished`.
        attempts: the commands that have worked on the run, in order.
        parent: where the run lies that a stage was made from; None for others.
        model: what the encoder says of itself; None for a stage, and until it is known.
        measured: rates that "auto" was chosen by; None where nothing was measured.
        fit: of a stage.
        space: of a stage, the space of the vectors that it reads, as `space_of` names it.
        format: number of the layout of the run directory.
        digests: sha256 of `digests.json`; None until the run is finished.
    """

    id: str
    spec: dict[str, Any]
    fingerprint: dict[str, Any]
    resolved: dict[str, Any]
    started: float
    finished: float | None = None
    status: str = NEW
    attempts: tuple[AttemptEntry, ...] = ()
    parent: str | None = None
    model: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None
    fit: Fit | None = None
    space: str | None = None
    format: int = FORMAT
    digests: str | None = None

    @classmethod
    def new(
        cls,
        spec: dict[str, Any],
        fingerprint: dict[str, Any],
        resolved: dict[str, Any],
        started: float,
        parent: str | None = None,
    ) -> Self:
        """Make the header of a run that no command has worked on, with an id of its own."""
        return cls(uuid.uuid4().hex, spec, fingerprint, resolved, started, parent=parent)

    @classmethod
    def load(cls, content: bytes, where: str) -> Self:
        """Read what `dump` wrote.

        Args:
            content: of the file.
            where: its path, for messages.

        Raises:
            RunError: it is no JSON, not a run's, or of a newer format.
        """
        try:
            tree = json.loads(content)
        except ValueError as error:
            raise RunError(f"{where}: not a run's: {error}; restore it, or choose another folder") from error
        if not isinstance(tree, dict) or not isinstance(tree.get("format"), int):
            raise RunError(f"{where}: not a run's: it names no format; choose another folder")
        if tree["format"] > FORMAT:
            raise RunError(
                f"{where}: the run has format {tree['format']}, and this version of embed-ops knows formats "
                f"up to {FORMAT}: install a newer embed-ops, or choose another folder"
            )
        lacking = [name for name in _NEEDED if name not in tree]
        if lacking:
            raise RunError(f"{where}: not a run's: it lacks {', '.join(lacking)}; choose another folder")
        wrong = [
            name
            for name, kinds in (_NEEDED | _LATER).items()
            if name in tree and not isinstance(tree[name], kinds)
        ]
        if wrong or tree["status"] not in (NEW, RUNNING, STOPPED, FINISHED):
            name = (*wrong, "status")[0]
            raise RunError(
                f"{where}: not a run's: {name} is {json.dumps(tree[name])[:60]}; restore it, or choose "
                "another folder"
            )
        try:
            attempts = tuple(map(AttemptEntry.parse, tree["attempts"]))
            fit = Fit(**tree["fit"]) if "fit" in tree else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{where}: not a run's: {error!r}; choose another folder") from error
        plain = {name: tree[name] for name in (*_NEEDED, "format") if name != "attempts"}
        return cls(
            **plain,
            attempts=attempts,
            model=tree.get("model"),
            measured=tree.get("measured"),
            fit=fit,
            space=tree.get("space"),
            digests=tree.get("digests"),
        )

    def dump(self) -> bytes:
        """Write the header as JSON, without secrets; what is not known yet is left out."""
        tree = {name: getattr(self, name) for name in ("format", *_NEEDED)}
        tree["attempts"] = [entry.tree() for entry in self.attempts]
        fit = None if self.fit is None else asdict(self.fit)
        tree["spec"] = redacted_tree(self.spec)
        later = {
            "model": redacted_tree(self.model),
            "measured": self.measured,
            "fit": fit,
            "space": self.space,
            "digests": self.digests,
        }
        tree |= {name: value for name, value in later.items() if value is not None}
        told = json.loads(json.dumps(tree, default=str))
        return json.dumps(told | {CHECKSUM: _checksum(told)}, indent=2).encode()


def as_written(content: bytes) -> bool:
    """Tell whether a `run.json` is as `dump` wrote it; one of before it had a checksum is."""
    tree = json.loads(content)
    return tree.pop(CHECKSUM, None) in (None, _checksum(tree))


def _checksum(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

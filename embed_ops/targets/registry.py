"""Which class serves which word of `--format`.

Classes are named, not imported: a target's own library loads only where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from embed_ops.errors import SpecError
from embed_ops.lazy import load_class, require

if TYPE_CHECKING:
    from embed_ops.targets.base import Target


@dataclass(frozen=True)
class TargetKind:
    """A kind of target.

    Attributes:
        address: of its class, `module:Class`.
        package: module that it needs; `extra`: of embed-ops, that installs it. None: it needs none.
    """

    address: str
    package: str | None = None
    extra: str = ""


TARGETS = {
    "npy": TargetKind("embed_ops.targets.npy:NumpyFile"),
    "faiss": TargetKind("embed_ops.targets.faiss:FaissIndex", "faiss", "faiss"),
    "lance": TargetKind("embed_ops.targets.lance:LanceDataset", "lance", "lance"),
    "webdataset": TargetKind("embed_ops.targets.webdataset:WebDatasetShards"),
}


def make_target(kind: str, place: str) -> Target:
    """Build a target of a kind; nothing is written yet.

    Args:
        kind: a word of the registry.
        place: what `--output` names.

    Raises:
        SpecError: there is no such kind.
        PackageError: the package that it needs is not installed.
    """
    if kind not in TARGETS:
        raise SpecError(f"--format {kind}: there is no such kind; there are {', '.join(TARGETS)}")
    chosen = TARGETS[kind]
    if chosen.package is not None:
        require(chosen.package, chosen.extra, f"--format {kind}")
    return cast("Target", load_class(chosen.address)(place))

"""Whether a run can be written where the spec says: apart from its source, with names that fit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from embed_ops.errors import SourceError, SpecError
from embed_ops.runs.record import DATA, MANIFEST, REJECTS, SUFFIX, TMP
from embed_ops.schema import RESERVED
from embed_ops.sources.base import hive_keys
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Limits, Plan, Span, unit_name
from embed_ops.spec.spec import Spec
from embed_ops.storage.listing import resolved
from embed_ops.storage.location import Location

_FOLDERS = (DATA, REJECTS, MANIFEST, TMP, "work", "model", "stages", "clusters", "probes")
_ENTRIES = (*_FOLDERS, "run.json", "plan.parquet", "report.json", "report.html", "atlas.parquet")
"""What a run directory holds."""


def require_apart(spec: Spec, sink: Location, corpora: Iterable[Corpus]) -> None:
    """Refuse a run directory whose files would be source files of the next command.

    Or would lie among them. Paths are compared without links and `..`.

    Raises:
        SpecError: names both places.
    """
    place = resolved(sink)
    if sink.local:
        _require_folders(spec, Path(place))
    for corpus in corpora:
        for address, listing in zip(corpus.spec.paths, corpus.listings, strict=True):
            if listing.reaches(sink, _ENTRIES):
                raise SpecError(
                    f"sink.path {spec.sink.path} lies inside the source {address} ({place} in "
                    f"{resolved(listing.root)}): choose a folder outside it"
                )
            if listing.root.fs == sink.fs:
                root = f"{resolved(listing.root)}/"
                held = next((name for name in _FOLDERS if root.startswith(f"{place}/{name}/")), None)
                if held is not None:
                    raise SpecError(
                        f"sink.path {spec.sink.path}: the source {address} lies in its folder {held}/, which "
                        f"the run writes ({root[:-1]} in {place}): choose another folder"
                    )


def _require_folders(spec: Spec, sink: Path) -> None:
    for folder in sink.parents:
        if folder.is_dir():
            return
        if folder.exists():
            raise SpecError(f"sink.path {spec.sink.path}: {folder} is a file; a folder can't lie below it")


def require_free_names(spec: Spec, corpus: Corpus) -> None:
    """Refuse keys of hive folders that are columns of the output too.

    Each file would have the column twice, with two types.

    Raises:
        SpecError: names the key.
    """
    outputs = {*(output.name for output in spec.encoder.named), *spec.encoder.companions}
    for key in hive_keys(corpus.files):
        if key in outputs:
            raise SpecError(
                f"source: the folders {key}=... have the name of an output, so no reader could open what is "
                "written; rename the output or the folders"
            )
        if key in RESERVED:
            raise SpecError(
                f"source: the folders {key}=... have the name of a column that every run writes; rename the "
                "folders"
            )


def require_names(sink: Location, plan: Plan, limits: Limits) -> None:
    """Refuse source files whose units would have longer names than the disk takes.

    Only local disks tell. A file inside a span may begin a unit where the span has several.

    Raises:
        SourceError: names the file, and both lengths.
    """
    if not sink.local:
        return
    longest_name, longest_path = _limits(Path(resolved(sink)))
    above = len(os.fsencode(resolved(sink))) + len(f"/{REJECTS}/")
    for span in plan.spans:
        for piece in span.pieces if _may_be_cut(span, limits) else span.pieces[:1]:
            output = os.fsencode(f"{unit_name(piece.source, piece.begin)}{SUFFIX}")
            name = len(output) - output.rfind(b"/") - 1
            if name > longest_name or above + len(output) > longest_path:
                what = f"name of {name} bytes is longer than the {longest_name}"
                if name <= longest_name:
                    what = f"path of {above + len(output)} bytes is longer than the {longest_path}"
                raise SourceError(
                    f"{piece.source}: files of the run are named after it, and a {what} that the disk takes; "
                    "shorten it"
                )


def _may_be_cut(span: Span, limits: Limits) -> bool:
    rows = [piece.rows for piece in span.pieces]
    known = sum(count or 0 for count in rows)
    return None in rows or known > limits.rows or sum(piece.bytes for piece in span.pieces) > limits.bytes


def _limits(sink: Path) -> tuple[int, int]:
    there = next(folder for folder in (sink, *sink.parents) if folder.exists())
    try:
        return os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX")
    except OSError:
        return 255, 4096

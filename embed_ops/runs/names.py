"""Names that stand in the tables of a run: files are found, written and deleted by them.

A run directory may come from somebody else, so a name is believed only where it stays inside.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.errors import RunError
from embed_ops.runs.record import SUFFIX

_LEADS_OUT = r"(^|/)\.\.(/|$)|^/|\x00"
_REJECT_END = rf"\.[0-9a-f]{{8}}{re.escape(SUFFIX)}$"
_REPAIR = "it was not written by embed-ops as it stands"


def require_inside(names: pa.ChunkedArray | pa.Array, where: str, what: str, repair: str) -> None:
    """Refuse names that lead out of the folder which they are below.

    Args:
        names: strings; nulls name nothing.
        where: the file in which they stand.
        what: they are, for the message.
        repair: what to do, for the message.

    Raises:
        RunError: names the first of them.
    """
    outside = names.filter(pc.fill_null(pc.match_substring_regex(names, _LEADS_OUT), False))
    if len(outside):
        raise RunError(f"{where}: {what} {outside[0].as_py()!r} leads out of its folder: {_REPAIR}; {repair}")


def require_own_rejects(part: pa.Table, where: str, repair: str) -> None:
    """Refuse reject files that do not have the name of their unit.

    Args:
        part: of a manifest.
        where: its path.
        repair: what to do, for the message.

    Raises:
        RunError: names the first of them.
    """
    rejects = part.column("reject_file")
    units = pc.replace_substring_regex(rejects, _REJECT_END, "")
    foreign = pc.or_(pc.not_equal(units, part.column("unit")), pc.equal(units, rejects))
    named = rejects.filter(pc.fill_null(foreign, False))
    if len(named):
        raise RunError(
            f"{where}: reject file {named[0].as_py()!r} is not named after its unit: {_REPAIR}; {repair}"
        )

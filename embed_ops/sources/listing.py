"""Source files as the storage lists them, and what a look into each tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pyarrow import fs as pafs

from embed_ops.errors import SourceError
from embed_ops.sources.plan import Layout, Piece, SourceFile
from embed_ops.sources.table_formats import require_no_table
from embed_ops.storage.listing import WILDCARDS, Listing, list_files

_LISTING_THREADS = 32
_NAMED = 3
"""Files that are named of those left out for one reason."""
_KINDS = 8
"""Endings that are told apart."""
HIDDEN = "names that begin with . or _"


@dataclass(frozen=True)
class LeftOut:
    """Files that were seen and are not read, for one reason.

    Attributes:
        why: the reason, as what they are.
        files: how many.
        names: the first of them.
    """

    why: str
    files: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """A corpus as it was listed.

    Attributes:
        listings: of the roots, in order.
        files: of all roots, in order.
        left_out: what else was seen.
    """

    listings: tuple[Listing, ...]
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...]


def list_sources(paths: Sequence[str], extensions: Sequence[str]) -> Sources:
    """List the corpus: the roots, their files in order, and what is left out.

    Raises:
        SourceError: a root is missing, has no file with one of the extensions (the message counts
            what is there), or is a table whose files are not its rows.
    """
    listings: list[Listing] = []
    files: list[SourceFile] = []
    aside: dict[str, list[str]] = {}
    for number, address in enumerate(paths):
        listing = list_files(address)
        number_folder = f"{number}/" if len(paths) > 1 else ""
        chosen = _chosen(address, listing, tuple(extensions))
        for why, names in _aside(listing, tuple(extensions)).items():
            aside.setdefault(why, []).extend(number_folder + name for name in names)
        listings.append(listing)
        files += [
            SourceFile(number_folder + listing.inside(info), number, info.size, info.mtime_ns or 0)
            for info in chosen
        ]
    left_out = tuple(LeftOut(why, len(names), tuple(names[:_NAMED])) for why, names in aside.items())
    return Sources(tuple(listings), tuple(files), left_out)


def _chosen(address: str, listing: Listing, extensions: tuple[str, ...]) -> list[pafs.FileInfo]:
    """Choose the files that the source reads.

    Raises:
        SourceError: there are none; their name is not UTF-8; a table format says what is in them.
    """
    taken = [info for info in listing.files if listing.by_name or info.path.lower().endswith(extensions)]
    odd = [name for name in listing.unnamed if listing.by_name or name.lower().endswith(extensions)]
    if odd:
        more = f", and {len(odd) - 1} others" if len(odd) > 1 else ""
        raise SourceError(
            f"source.path {address}: the name of {_shown(odd[0])} is not UTF-8{more}; rename it, as "
            "`convmv -f latin1 -t utf8` does, or leave it out by a glob"
        )
    if not taken:
        told = ""
        if hidden := _aside(listing, extensions).get(HIDDEN):
            told = f"; left out: {len(hidden)} {HIDDEN}, as {hidden[0]}; a glob such as _* takes them"
        if listing.by_name:
            raise SourceError(f"source.path {address}: no file matches{told}; {WILDCARDS}")
        raise SourceError(
            f"source.path {address}: no file ends in {', '.join(extensions)}; found "
            f"{_census(listing.files)}{told}"
        )
    if ".parquet" in extensions and not listing.is_file:
        require_no_table(address, listing, [listing.inside(info) for info in taken])
    return taken


def _aside(listing: Listing, extensions: tuple[str, ...]) -> dict[str, list[str]]:
    """Name what a listing saw and the source does not read, by reason."""
    aside = {
        HIDDEN: [name for name in listing.hidden if name.lower().endswith(extensions)],
        "links that lead nowhere": listing.dangling,
        "links back to a folder that they are in": listing.loops,
        "neither files nor folders": listing.special,
    }
    if not listing.by_name:
        kinds: dict[str, list[str]] = {}
        names = [*map(listing.inside, listing.files), *listing.unnamed]
        for name in names:
            if not name.lower().endswith(extensions):
                ending = PurePosixPath(name).suffix.lower()
                kinds.setdefault(f"ending in {ending}" if ending else "without an ending", []).append(name)
        most = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))
        aside |= {kind: kinds[kind] for kind in most[:_KINDS]}
        if others := [name for kind in most[_KINDS:] for name in kinds[kind]]:
            aside["with other endings"] = others
    return {why: sorted(map(_shown, names)) for why, names in aside.items() if names}


def _shown(name: str) -> str:
    """Give a name as text that can be written: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _census(files: Sequence[pafs.FileInfo]) -> str:
    if not files:
        return "no file at all"
    counts: dict[str, int] = {}
    for info in files:
        counts[info.extension or "no extension"] = counts.get(info.extension or "no extension", 0) + 1
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    return f"{len(files)} files ({', '.join(f'{count} {name}' for name, count in most)})"


def inspect_files(files: Sequence[SourceFile], inspect: Callable[[SourceFile], Layout]) -> list[Layout]:
    """Ask the source for the layout of every file, in order.

    Many at once, since each is one small read.
    """
    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        return list(pool.map(inspect, files))


def limit_layouts(
    layouts: Iterable[Layout], limit: int, position_after: Callable[[Piece, int], tuple[int, int | None]]
) -> Iterator[Layout]:
    """Cut layouts after the first `limit` rows of the corpus.

    Args:
        layouts: of the files, in order.
        limit: rows.
        position_after: reads a piece up to a number of rows; gives (rows read, position behind
            them); None for that where the rest of the piece can't be read, which is found again,
            and reported, on reading.
    """
    left = limit
    for layout in layouts:
        if left == 0:
            return
        pieces = []
        for piece in layout.pieces:
            if left == 0:
                break
            rows = piece.rows
            if rows is None:
                rows, end = position_after(piece, left)
                piece = replace(piece, end=end, rows=None if end is None else rows)
            elif rows > left:
                piece = replace(piece, end=piece.begin + left, rows=left)
                rows = left
            left -= rows
            pieces.append(piece)
        yield replace(layout, pieces=tuple(pieces))

"""Source files as the storage lists them, and what a look into each tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from embed_ops.errors import SourceError
from embed_ops.sources.plan import Layout, Piece, SourceFile
from embed_ops.storage.files import Location, list_files, locate

_LISTING_THREADS = 32


def list_sources(paths: Sequence[str], extensions: Sequence[str]) -> tuple[list[Location], list[SourceFile]]:
    """List the corpus: the roots, and their files in order.

    Raises:
        SourceError: a root is missing, or has no file with one of the extensions (the message
            counts what is there).
    """
    roots: list[Location] = []
    files: list[SourceFile] = []
    for number, address in enumerate(paths):
        root, listed = list_files(address)
        is_file = len(listed) == 1 and listed[0].path == locate(address).path
        chosen_by_name = is_file or any(mark in address for mark in "*?[")
        chosen = [info for info in listed if chosen_by_name or info.path.lower().endswith(tuple(extensions))]
        if not chosen:
            raise SourceError(
                f"source.path {address}: no file ends in {', '.join(extensions)}; found {_census(listed)}"
            )
        roots.append(root)
        prefix = len(root.path.rstrip("/")) + 1
        number_folder = f"{number}/" if len(paths) > 1 else ""
        files += [
            SourceFile(number_folder + info.path[prefix:], number, info.size, info.mtime_ns or 0)
            for info in chosen
        ]
    return roots, files


def _census(files: Sequence[pa.fs.FileInfo]) -> str:
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

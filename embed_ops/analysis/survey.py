"""What data are: kind of files, the column to embed, what is worth keeping.

And, of a folder that holds models, what a model is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from embed_ops.errors import EmbedOpsError, SourceError
from embed_ops.sources.base import hive_keys
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.listing import list_sources
from embed_ops.sources.plan import SourceFile
from embed_ops.sources.registry import SOURCES, make_source
from embed_ops.sources.tensors import holds_tensors
from embed_ops.sources.types import holds_images, is_string
from embed_ops.spec.spec import parse_source
from embed_ops.storage.listing import list_files

_KINDS = ("parquet", "jsonl", "csv", "webdataset", "images", "text")
_WHOLE = ("webdataset", "images", "text")
"""Kinds of which no column is chosen."""
_LOOKED_AT = 64
_KEPT = 4
_USEFUL = (
    "id",
    "key",
    "label",
    "class",
    "category",
    "title",
    "name",
    "url",
    "lang",
    "language",
    "date",
    "split",
)
"""What is worth keeping beside a vector, by name."""
_RUN = ("run.json", "plan.parquet")
"""Files that every run directory has."""
_MOST_ENTRIES = 64
"""Entries of a folder that a spec names one by one, to leave out a run that lies among them."""


@dataclass(frozen=True)
class Survey:
    """What was found in the files, and what was chosen.

    Attributes:
        kind: of the files; `files`: how many; `size`: their bytes.
        modality: "text", "image" or "tensor".
        column: that is embedded, None where the kind tells.
        keep: columns to keep; `others`: all columns but `column`.
        mean_length: of the first texts in characters, None where it was not measured.
        paths: what the spec is to read, the data without runs that lie among them.
        runs: run directories that were left out.
        rows: of the files, None where only reading would tell.
    """

    kind: str
    files: int
    size: int
    modality: str
    column: str | None
    keep: tuple[str, ...]
    others: tuple[str, ...]
    mean_length: float | None
    paths: tuple[str, ...]
    runs: tuple[str, ...] = ()
    rows: int | None = None


@dataclass(frozen=True)
class _Files:
    """The files of one kind at a path; `others`: names of those that a glob matches as well."""

    kind: str
    paths: tuple[str, ...]
    files: tuple[SourceFile, ...]
    others: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def look(path: str) -> Survey:
    """Look at a folder or file, and choose.

    Raises:
        SourceError: there is nothing that can be embedded, a run is all there is, or one lies among
            too many entries.
    """
    runs = _runs_below(path)
    best: _Files | None = None
    problems = []
    for kind in _KINDS:
        try:
            candidate = _files_of(kind, path, runs)
        except EmbedOpsError as error:
            problems.append(str(error))
            continue
        if best is None or candidate.size > best.size:
            best = candidate
    if best is None:
        raise SourceError(
            f"{path}: nothing here that can be embedded; known kinds of files: {', '.join(SOURCES)} "
            f"({problems[0]})"
        )
    if best.others:
        first = best.files[0].name
        raise SourceError(
            f"{path}: matches {first} of kind {best.kind}, and {best.others[0]}: give the folder, of which "
            f"one kind is taken, or a glob of one kind, as *{PurePosixPath(first).suffix}"
        )
    if best.kind not in _WHOLE:
        return _columns(path, best, runs)
    images = best.kind == "images"
    # The folder of a file is its label where there are several folders.
    keep = ("label",) if images and len({file.folder for file in best.files}) > 1 else ()
    return Survey(
        best.kind,
        len(best.files),
        best.size,
        "text" if best.kind == "text" else "image",
        None,
        keep,
        ("path", "size") if images else (),
        None,
        best.paths,
        runs,
        len(best.files) if images else None,
    )


def _files_of(kind: str, path: str, runs: Sequence[str]) -> _Files:
    """List the files of a kind at a path, without those of runs.

    A file that is named, or matches a glob, is listed whatever its ending is, which tells its kind
    here.

    Raises:
        SourceError: there are none.
    """
    section = {"kind": kind, "path": path} | ({} if kind in _WHOLE else {"column": "?"})
    if kind in ("images", "webdataset"):
        section["modality"] = "image"
    extensions = make_source(parse_source(section)).extensions
    paths = _without(path, runs, extensions) if runs else (path,)
    files = list_sources(paths, extensions).files
    mine = tuple(file for file in files if file.name.lower().endswith(tuple(extensions)))
    if not mine:
        raise SourceError(f"no file ends in {', '.join(extensions)}; found {files[0].name}")
    return _Files(kind, paths, mine, tuple(file.name for file in files if file not in mine))


def _runs_below(path: str) -> tuple[str, ...]:
    """Name the run directories below a folder that lie in no other one."""
    listing = list_files(path)
    if listing.by_name:
        return ()
    names = {listing.inside(info) for info in listing.files}
    if names.issuperset(_RUN):
        raise SourceError(
            f"{path}: is a run directory, and its rows have vectors already: see embed-ops report {path}, "
            f"or embed-ops neighbors {path} --text ..."
        )
    folders = sorted({str(PurePosixPath(name).parent) for name in names if name.endswith(_RUN[0])})
    runs: list[str] = []
    for folder in folders:
        whole = folder != "." and all(f"{folder}/{name}" in names for name in _RUN)
        if whole and not any(folder.startswith(f"{run}/") for run in runs):
            runs.append(folder)
    return tuple(runs)


def _without(path: str, runs: Sequence[str], extensions: Sequence[str]) -> tuple[str, ...]:
    """Name the files of a folder without the runs in it: by globs, and its other entries.

    Raises:
        SourceError: nothing else is there, or too much to be named.
    """
    listing = list_files(path)
    names = [listing.inside(info) for info in listing.files]
    mine = [
        name
        for name in names
        if name.lower().endswith(tuple(extensions)) and not any(name.startswith(f"{run}/") for run in runs)
    ]
    if not mine:
        raise SourceError(
            f"source.path {path}: holds runs ({', '.join(runs[:3])}) and no other file of this kind"
        )
    folder = path.rstrip("/")
    endings = {
        name[-len(ending) :] for name in mine if "/" not in name for ending in extensions
        if name.lower().endswith(ending)
    }  # fmt: skip
    entries = {name.partition("/")[0] for name in mine if "/" in name}
    mixed = [entry for entry in entries if any(f"{run}/".startswith(f"{entry}/") for run in runs)]
    if mixed or len(entries) > _MOST_ENTRIES:
        raise SourceError(
            f"{path}: runs lie among its files ({', '.join(runs[:3])}): move them to another folder, or "
            "give a glob that leaves them out"
        )
    return tuple(f"{folder}/{name}" for name in (*(f"*{end}" for end in sorted(endings)), *sorted(entries)))


def _columns(path: str, files: _Files, runs: tuple[str, ...]) -> Survey:
    """Choose the column of texts, that with the longest ones, of images or of tensors.

    And what to keep.
    """

    def opened_with(column: str, modality: str = "text") -> Corpus:
        section = {"kind": files.kind, "path": list(files.paths), "column": column, "modality": modality}
        return Corpus.open(parse_source(section))

    opened = opened_with("?")
    try:
        schema = opened.sample_columns()
    except SourceError as error:
        raise SourceError(f"{path}: taken for {files.kind} by its name: {error}") from error
    images = [field.name for field in schema if holds_images(field.type)]
    tensors = [field.name for field in schema if holds_tensors(field.type)]
    lengths: dict[str, float] = {}
    rows: int | None = None
    refused: EmbedOpsError | None = None
    for field in schema:
        if is_string(field.type):
            try:
                corpus = opened_with(field.name)
                plan = corpus.plan()
                texts = corpus.head(plan, _LOOKED_AT)
            except EmbedOpsError as error:
                refused = refused or error
                continue
            rows = plan.rows
            lengths[field.name] = sum(map(len, texts)) / len(texts) if texts else 0.0
    if images:
        column, modality, length = images[0], "image", None
        with suppress(EmbedOpsError):
            rows = opened_with(column).plan().rows if rows is None else rows
    elif lengths and max(lengths.values()) > 0:
        column, modality = max(lengths, key=lambda name: lengths[name]), "text"
        length = lengths[column]
    elif tensors:
        column, modality, length = tensors[0], "tensor", None
        with suppress(EmbedOpsError):
            rows = opened_with(column, modality).plan().rows
    elif refused is not None and not lengths:
        # There are columns of texts, and something else is wrong with the files.
        raise SourceError(f"{path}: {refused}") from refused
    else:
        raise SourceError(
            f"{path}: no column of texts, images or lists of numbers; columns: "
            f"{', '.join(f'{field.name} ({field.type})' for field in schema) or 'none'}"
        )
    # Folders give their keys by themselves.
    keys = hive_keys(opened.files)
    others = [field.name for field in schema if field.name != column]
    keep = [name for name in others if name not in keys and _worth_keeping(name, schema.field(name).type)]
    return Survey(
        files.kind,
        len(files.files),
        files.size,
        modality,
        column,
        tuple(keep[:_KEPT]),
        tuple(others),
        length,
        files.paths,
        runs,
        rows,
    )


def _worth_keeping(name: str, kind: pa.DataType) -> bool:
    words = name.lower().replace("-", "_").split("_")
    plain = (
        is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date(kind)
    )
    return plain and any(word in _USEFUL for word in words)

"""A first spec for data that is there.

Looks at the files, chooses columns, explains its choices in comments.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from embed_ops.errors import EmbedOpsError, SourceError, SpecError
from embed_ops.redaction import redacted
from embed_ops.sources.base import hive_keys
from embed_ops.sources.columns import holds_images
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.listing import list_sources
from embed_ops.sources.registry import SOURCES, make_source
from embed_ops.sources.types import is_string
from embed_ops.spec.spec import Spec, parse_source
from embed_ops.spec.toml import literal
from embed_ops.storage.location import full_address
from embed_ops.terminal import plain_line

_KINDS = ("parquet", "jsonl", "csv", "webdataset", "images", "text")
_MODELS = {"text": "sentence-transformers/all-MiniLM-L6-v2", "image": "facebook/dinov2-small"}
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


@dataclass(frozen=True)
class Survey:
    """What was found in the files, and what was chosen.

    Attributes:
        kind: of the files; `files`: how many; `size`: their bytes.
        modality: "text" or "image"; `column`: that is embedded, None where the kind tells.
        keep: columns to keep; `others`: all columns but `column`.
        mean_length: of the first texts in characters, None where it was not measured.
    """

    kind: str
    files: int
    size: int
    modality: str
    column: str | None
    keep: tuple[str, ...]
    others: tuple[str, ...]
    mean_length: float | None


def look(path: str) -> Survey:
    """Look at a folder or file, and choose.

    Raises:
        SourceError: there is nothing that can be embedded.
    """
    best: tuple[int, str, int] | None = None
    problems = []
    for kind in _KINDS:
        plain = (
            {"kind": kind, "path": path, "modality": "image"}
            if kind in ("images", "webdataset")
            else {"kind": kind, "path": path}
        )
        column = {} if kind in ("images", "webdataset", "text") else {"column": "?"}
        try:
            files = list_sources((path,), make_source(parse_source(plain | column)).extensions).files
        except EmbedOpsError as error:
            problems.append(str(error))
            continue
        size = sum(file.size for file in files)
        if best is None or size > best[0]:
            best = (size, kind, len(files))
    if best is None:
        raise SourceError(
            f"{path}: nothing here that can be embedded; known kinds of files: {', '.join(SOURCES)} "
            f"({problems[0]})"
        )
    size, kind, count = best
    if kind in ("images", "webdataset"):
        return Survey(kind, count, size, "image", None, (), (), None)
    if kind == "text":
        return Survey(kind, count, size, "text", None, (), (), None)
    return _columns(path, kind, count, size)


def _columns(path: str, kind: str, files: int, size: int) -> Survey:
    """Choose the column of texts, that with the longest ones, or of images; and what to keep."""
    opened = Corpus.open(parse_source({"kind": kind, "path": path, "column": "?"}))
    schema = opened.source.sample_schema(opened.place(opened.files[0]))
    images = [field.name for field in schema if holds_images(field.type)]
    lengths: dict[str, float] = {}
    for field in schema:
        if is_string(field.type):
            with suppress(EmbedOpsError):
                corpus = Corpus.open(parse_source({"kind": kind, "path": path, "column": field.name}))
                texts = corpus.head(corpus.plan(), _LOOKED_AT)
                lengths[field.name] = sum(map(len, texts)) / len(texts) if texts else 0.0
    if images:
        column, modality, length = images[0], "image", None
    elif lengths and max(lengths.values()) > 0:
        column, modality = max(lengths, key=lambda name: lengths[name]), "text"
        length = lengths[column]
    else:
        raise SourceError(
            f"{path}: no column of texts or images; columns: "
            f"{', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    # Folders give their keys by themselves.
    keys = hive_keys(opened.files)
    others = [field.name for field in schema if field.name != column]
    keep = [name for name in others if name not in keys and _worth_keeping(name, schema.field(name).type)]
    return Survey(kind, files, size, modality, column, tuple(keep[:_KEPT]), tuple(others), length)


def _worth_keeping(name: str, kind: pa.DataType) -> bool:
    words = name.lower().replace("-", "_").split("_")
    plain = (
        is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date(kind)
    )
    return plain and any(word in _USEFUL for word in words)


def starter(path: str, *, model: str | None = None, sink: str = "embedded") -> str:
    """Write the text of a spec for the data at a path, with comments.

    Args:
        path: folder, file or glob; local or any pyarrow/fsspec address.
        model: by default a small one that suits the data.
        sink: run directory.

    Raises:
        SourceError: there is nothing that can be embedded.
        SpecError: what was found makes no spec.
    """
    text = "\n".join(_lines(look(path), path, model, sink))
    _check(text)
    return text


def _lines(survey: Survey, path: str, model: str | None, sink: str) -> list[str]:
    """Word the spec, a line each; names that stand in comments are one line too."""
    place = redacted(full_address(path) if "://" not in path else path)
    return [
        f"# {survey.files:,} files of kind {survey.kind}, {survey.size / 1e6:,.1f} MB. Look first, embed, "
        "look at the result:",
        "#",
        "#   embed-ops plan FILE.toml --price 1.2      # what it will take, for machines at 1.2 an hour",
        "#   embed-ops embed FILE.toml                 # the same command again goes on after any stop",
        f"#   embed-ops report {plain_line(sink)}",
        "",
        "[source]",
        f"kind = {literal(survey.kind)}",
        f"path = {literal(place)}",
        *_column_lines(survey),
        "",
        "[encoder]",
        *(['family = "image"'] if survey.modality == "image" else []),
        f"model = {literal(model or _MODELS[survey.modality])}      "
        "# a hub name, a folder, or an object store prefix",
        "# Left out, the type is chosen: bfloat16 where the device gains by it and the first rows stay "
        "close to the reference.",
        '# dtype = "float32"',
        "",
        "[sink]",
        f"path = {literal(sink)}                    # data/ is partitioned like the source; the rest lies "
        "beside it",
        '# dtype = "float16"                   # half the bytes',
        "",
        "# Stages follow with `embed-ops run FILE.toml`, or later with `embed-ops postprocess`.",
        "# [[stage]]",
        '# kind = "kmeans"',
        "# k = 100",
        "",
    ]


def _column_lines(survey: Survey) -> list[str]:
    """Word what is embedded and what is kept, for files that have columns."""
    if survey.column is None:
        return []
    what = "images"
    if survey.mean_length is not None:
        what = f"texts of {survey.mean_length:,.0f} characters on average"
    others = plain_line(", ".join(survey.others) or "none")
    return [
        f"column = {literal(survey.column)}        # {what}; other columns: {others}",
        f"keep = {literal(list(survey.keep))}      # stand beside the vectors in the output",
        '# where = "length(title) > 0"         # a condition in SQL; other rows are counted, not embedded',
    ]


def _check(text: str) -> None:
    """Refuse to hand out a spec that the other commands would refuse."""
    import tomllib

    try:
        Spec.parse(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"a name in the data, or the path, can't stand in a TOML file: {error}") from error


def write_starter(path: str, output: str, *, model: str | None = None, sink: str = "embedded") -> Survey:
    """Write a starter spec to a new file.

    Raises:
        SpecError: the file is there already.
        SourceError: there is nothing that can be embedded.
    """
    target = Path(output).expanduser()
    if target.exists():
        raise SpecError(f"{target}: is there already; name another file by --output")
    text = starter(path, model=model, sink=sink).replace("FILE.toml", plain_line(str(output)))
    temporary = target.with_name(f".{target.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)
    return look(path)

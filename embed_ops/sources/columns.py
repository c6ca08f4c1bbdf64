"""Which columns of the files a spec needs, and with which types they are read and kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from embed_ops.errors import SourceError, SpecError
from embed_ops.sources.base import HIVE_KEYS, hive_keys, text_columns
from embed_ops.sources.graph import graph_type
from embed_ops.sources.plan import Layout, SourceFile
from embed_ops.sources.rows import Rows
from embed_ops.sources.tensors import require_tensors
from embed_ops.sources.type_names import parse_type
from embed_ops.sources.types import common_type, image_type, is_listed, is_uuid, meaning, stored_type
from embed_ops.spec.source import GraphSourceSpec, SourceSpec

_IDENTIFIER = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')
"""A name in SQL, quoted or plain; DuckDB takes letters of every alphabet."""


def _field_type(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Find the type of a column or, by a dotted name, of a field inside a struct.

    None where there is none.
    """
    if name in schema.names:
        return schema.field(schema.names.index(name)).type
    head, *path = name.split(".")
    kind = schema.field(schema.names.index(head)).type if head in schema.names else None
    for part in path:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    plain = meaning(kind)
    return any(test(plain) for test in (pa.types.is_string, pa.types.is_binary, pa.types.is_null))


def _casts(kind: pa.DataType, target: pa.DataType) -> bool:
    """Tell whether Arrow has a way from one type to another; single values may still not fit."""
    plain = meaning(kind)
    if pa.types.is_list(plain) and is_listed(target):
        return _casts(plain.value_type, target.value_type)
    if pa.types.is_struct(plain) and pa.types.is_struct(target):
        return all(
            plain.get_field_index(field.name) < 0 or _casts(plain.field(field.name).type, field.type)
            for field in target.fields
        )
    try:
        pa.nulls(1, plain).cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _fits_template(kind: pa.DataType) -> bool:
    # Views and binary become text by our own way.
    return is_uuid(kind) or _is_text(kind) or _casts(kind, pa.string())


def _where_columns(where: str | None, known: Iterable[str]) -> list[str]:
    if where is None:
        return []
    bare = re.sub(r"'(?:[^']|'')*'", "", where)
    words = {(quoted or plain).replace('""', '"').lower() for quoted, plain in _IDENTIFIER.findall(bare)}
    return [name for name in known if name.lower() in words]


_LEARNED = ("jsonl", "webdataset")
"""Kinds whose columns are those that the first records have."""


def choose_columns(
    spec: SourceSpec, files: Sequence[SourceFile], schemas: Sequence[tuple[str, pa.Schema]]
) -> pa.Schema:
    """Decide which columns are read from every file, and with which types.

    Args:
        spec: the source section.
        files: of the corpus, in order.
        schemas: (file, columns) of those files whose columns are known; one that stands for all.

    Returns:
        the columns, the keys of hive folders in the metadata.

    Raises:
        SourceError: a column is missing or has no type that fits all files; the message lists the
            columns that are there.
        SpecError: `where`, `types` or `template` is not valid.
    """
    hive = hive_keys(files)
    texts = text_columns(spec)
    schemas = _distinct(schemas)
    in_all = set.intersection(*(set(schema.names) for _, schema in schemas)) if schemas else set()
    wanted = dict.fromkeys([*texts, *spec.keep, *_where_columns(spec.where, sorted({*in_all, *hive}))])
    others = spec.edge_columns if isinstance(spec, GraphSourceSpec) else ()
    unknown = [name for name in spec.types if name not in wanted and name not in others]
    if unknown:
        raise SpecError(f"source.types.{unknown[0]}: no column that is used; used: {', '.join(wanted)}")
    fields = []
    for name in wanted:
        if kinds := _kinds(name, schemas, hive, learned=spec.kind in _LEARNED):
            fields.append(pa.field(name, _common(spec, name, kinds, is_text=name in texts)))
            if name in hive and name in spec.keep:
                raise SpecError(_twice(name, files))
    chosen = pa.schema(fields, {HIVE_KEYS: json.dumps(hive).encode()} if hive else None)
    Rows(spec, chosen).check()
    return chosen


def check_columns(
    spec: SourceSpec, chosen: pa.Schema, files: Sequence[SourceFile], layouts: Sequence[Layout]
) -> None:
    """Check that every file whose columns are known has the chosen ones, with values that fit.

    Raises:
        SourceError: a column is missing or of another type.
    """
    texts = text_columns(spec)
    for file, layout in zip(files, layouts, strict=True):
        if layout.schema is None:
            continue
        for field in chosen:
            for kind, where in _kinds(field.name, [(file.name, layout.schema)], {}).items():
                read_as = _chosen_type(spec, field.name, kind, where, is_text=field.name in texts)
                if pa.types.is_null(kind) or common_type([field.type, read_as]) in (
                    field.type,
                    meaning(field.type),
                ):
                    continue
                raise SourceError(
                    f"{where}: column {field.name!r} is {read_as}, but this run reads it as {field.type}; "
                    "make them the same, or choose another sink.path"
                )


def _distinct(schemas: Sequence[tuple[str, pa.Schema]]) -> list[tuple[str, pa.Schema]]:
    """Leave out files with the columns of one before them: most have those of the first."""
    kept: dict[tuple[object, ...], tuple[str, pa.Schema]] = {}
    for where, schema in schemas:
        kept.setdefault((*schema.names, *schema.types), (where, schema))
    return list(kept.values())


def _kinds(
    name: str, schemas: Sequence[tuple[str, pa.Schema]], hive: Iterable[str], *, learned: bool = False
) -> dict[pa.DataType, str]:
    """Find the types of a column, each with the first file that has it.

    None at all for one that hive folders name in all files. `learned`: from the first records only.

    Raises:
        SourceError: a file lacks it, or has it twice.
    """
    kinds: dict[pa.DataType, str] = {}
    lacking: tuple[str, pa.Schema] | None = None
    for where, schema in schemas:
        if schema.names.count(name) > 1:
            raise SourceError(f"{where}: column {name!r} is there twice; rename one of them")
        kind = _field_type(schema, name)
        if kind is None:
            lacking = lacking or (where, schema)
        else:
            kinds.setdefault(kind, where)
    if lacking is None or (not kinds and name in hive):
        return kinds
    where, schema = lacking
    if kinds and name in hive:
        raise SourceError(
            f"{where}: has no column {name!r}, which is a column of {next(iter(kinds.values()))} and a key "
            f"of folders ({name}=...); let it be one of the two in all files"
        )
    later = f"; if it comes later only, give its type: source.types.{name}" if learned else ""
    raise SourceError(_missing(where, name, schema, hive) + later)


def _common(spec: SourceSpec, name: str, kinds: Mapping[pa.DataType, str], *, is_text: bool) -> pa.DataType:
    """Choose the type that a column is read with in all files.

    Raises:
        SourceError: there is none.
    """
    read_as: dict[pa.DataType, str] = {}
    for kind, where in kinds.items():
        chosen = _chosen_type(spec, name, kind, where, is_text=is_text)
        if not pa.types.is_null(kind):
            read_as.setdefault(chosen, where)
    if not read_as:
        # Nulls in all files: whatever the column is read as.
        return chosen
    common = common_type(list(read_as))
    if common is None:
        (one, first), (other, second) = _conflict(read_as)
        remedy = (
            "make them the same"
            if is_text
            else f'make them the same, or say what to read by source.types.{name} = "..."'
        )
        raise SourceError(f"{second}: column {name!r} is {other}, but {one} in {first}; {remedy}")
    return common


def _conflict(read_as: Mapping[pa.DataType, str]) -> tuple[tuple[pa.DataType, str], tuple[pa.DataType, str]]:
    """Find two types that have none in common."""
    listed = list(read_as.items())
    for place, other in enumerate(listed):
        for one in listed[:place]:
            if common_type([one[0], other[0]]) is None:
                return one, other
    # Each two have a type in common, and all of them have none.
    return listed[0], listed[-1]


def _twice(name: str, files: Sequence[SourceFile]) -> str:
    folder = next(part for file in files for part in file.name.split("/") if part.startswith(f"{name}="))
    return (
        f"source.keep: {name!r} is a column of the files and a key of their folders ({folder}): whoever "
        "reads the output would find it twice, with two types; leave it out of keep: the folders are "
        "those of data/ too, and give the column"
    )


def _chosen_type(spec: SourceSpec, name: str, kind: pa.DataType, where: str, *, is_text: bool) -> pa.DataType:
    if is_text and isinstance(spec, GraphSourceSpec):
        return graph_type(spec, name, kind, where)
    if is_text and spec.modality == "image":
        if (of_images := image_type(kind)) is None:
            raise SourceError(
                f"{where}: column {name!r} is {kind}; images are bytes, paths, URIs, or a struct of "
                "bytes and path"
            )
        return of_images
    if is_text and spec.modality == "words":
        if not pa.types.is_null(kind) and not (is_listed(kind) and _is_text(kind.value_type)):
            raise SourceError(f"{where}: column {name!r} is {kind}; words need a column of lists of strings")
        return pa.list_(pa.string())
    if is_text and spec.modality == "tensor":
        return require_tensors(kind, f"{where}: column {name!r}")
    if is_text:
        if spec.joined is None and not _is_text(kind):
            raise SourceError(f"{where}: column {name!r} is {kind}; the text needs a string column")
        if not _fits_template(kind):
            raise SourceError(f"{where}: column {name!r} is {kind}, which can't stand in source.template")
        return pa.string()
    if name in spec.types:
        return _asked(spec, name, kind, where)
    return pa.string() if pa.types.is_null(kind) else stored_type(kind)


def _asked(spec: SourceSpec, name: str, kind: pa.DataType, where: str) -> pa.DataType:
    """Give the type that `source.types` asks for.

    Raises:
        SourceError: there is no way to it from what the file has.
    """
    asked = parse_type(name, spec.types[name])
    # A line of JSON has values of any shape, each looked at by itself.
    if spec.kind != "jsonl" and not (_casts(kind, asked) or (is_uuid(kind) and asked == pa.string())):
        raise SourceError(
            f"{where}: column {name!r} is {kind}, of which source.types.{name} = {spec.types[name]!r} can't "
            "be made; choose another type"
        )
    return asked


def _missing(where: str, name: str, schema: pa.Schema, hive: Iterable[str]) -> str:
    folders = f"; from the folders: {', '.join(hive)}" if hive else ""
    told = f"{where}: no column {name!r}; columns: {', '.join(schema.names) or 'none'}{folders}"
    if any("\ufffd" in known for known in schema.names):
        told += "; the header is not UTF-8: convert the file, as `iconv -f latin1 -t UTF-8` does"
    return told

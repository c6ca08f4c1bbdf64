"""Which columns of the files a spec needs, and with which types they are read and kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

from embed_ops.errors import SourceError, SpecError
from embed_ops.sources.base import hive_columns, text_columns
from embed_ops.sources.graph import graph_type
from embed_ops.sources.plan import Layout, SourceFile
from embed_ops.sources.rows import Rows
from embed_ops.spec.source import GraphSourceSpec, SourceSpec

_IDENTIFIER = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_][A-Za-z0-9_]*)')


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


def _stored(kind: pa.DataType) -> pa.DataType:
    """Give the type a kept column is stored with.

    Dictionary encoding and views are a matter of the file.
    """
    if pa.types.is_dictionary(kind):
        return _stored(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        # Among the columns of a run, fixed-size lists are its vectors.
        return pa.list_(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    plain = _stored(kind)
    return any(
        test(plain)
        for test in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    )


def _image_type(kind: pa.DataType) -> pa.DataType | None:
    """Give the type that a column of images is read with: bytes, a path, or a struct of both.

    None where it holds no images.
    """
    plain = _stored(kind)
    if pa.types.is_struct(plain):
        parts = {
            plain.field(place).name: _image_type(plain.field(place).type) for place in range(plain.num_fields)
        }
        return plain if parts.get("bytes") == pa.binary() or parts.get("path") == pa.string() else None
    if pa.types.is_large_binary(plain) or pa.types.is_fixed_size_binary(plain) or pa.types.is_null(plain):
        return pa.binary()
    return plain if pa.types.is_binary(plain) or pa.types.is_string(plain) else None


def holds_images(kind: pa.DataType) -> bool:
    """Tell whether a column is one of images beyond doubt: bytes, or a struct of bytes and path."""
    plain = _stored(kind)
    return bool(pa.types.is_binary(plain) or pa.types.is_struct(plain)) and _image_type(kind) is not None


def _fits_template(kind: pa.DataType) -> bool:
    try:
        pa.array([], kind).cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # Arrow has no cast to text for this type, as for lists; views and binary become text by our
        # own way.
        return _is_text(kind)
    return True


def _where_columns(where: str | None, known: Iterable[str]) -> list[str]:
    if where is None:
        return []
    bare = re.sub(r"'(?:[^']|'')*'", "", where)
    words = {(quoted or plain).replace('""', '"').lower() for quoted, plain in _IDENTIFIER.findall(bare)}
    return [name for name in known if name.lower() in words]


def choose_columns(
    spec: SourceSpec, files: Sequence[SourceFile], layouts: Sequence[Layout], sample: pa.Schema
) -> pa.Schema:
    """Decide which columns are read from every file, and with which types.

    Args:
        spec: the source section.
        files: of the corpus, in order.
        layouts: of these files; a schema in it is checked against the first one.
        sample: columns of the first file that can be read.

    Raises:
        SourceError: a column is missing or has the wrong type; the message lists those that are
            there.
        SpecError: `where`, `types` or `template` is not valid.
    """
    hive = hive_columns(files[0].name)
    texts = text_columns(spec)
    wanted = dict.fromkeys([*texts, *spec.keep, *_where_columns(spec.where, [*sample.names, *hive])])
    others = spec.edge_columns if isinstance(spec, GraphSourceSpec) else ()
    unknown = [name for name in spec.types if name not in wanted and name not in others]
    if unknown:
        raise SpecError(f"source.types.{unknown[0]}: no column that is used; used: {', '.join(wanted)}")
    fields = []
    for name in wanted:
        kind = _field_type(sample, name)
        if kind is None and name in hive:
            continue
        if sample.names.count(name) > 1:
            raise SourceError(f"{files[0].name}: column {name!r} is there twice; rename one of them")
        if kind is None:
            raise SourceError(_missing(files[0].name, name, sample, hive))
        fields.append(pa.field(name, _chosen_type(spec, name, kind, files[0].name, is_text=name in texts)))
    chosen = pa.schema(fields)
    check_columns(spec, chosen, files, layouts)
    for keys in {tuple(hive_columns(file.name)) for file in files}:
        Rows(spec, chosen).check(keys)
    return chosen


def check_columns(
    spec: SourceSpec, chosen: pa.Schema, files: Sequence[SourceFile], layouts: Sequence[Layout]
) -> None:
    """Check that every file whose columns are known has the chosen ones.

    Raises:
        SourceError: a column is missing or of another type.
    """
    texts = text_columns(spec)
    for file, layout in zip(files, layouts, strict=True):
        if layout.schema is not None:
            _check_same(spec, chosen, file.name, layout.schema, texts)


def _chosen_type(spec: SourceSpec, name: str, kind: pa.DataType, where: str, *, is_text: bool) -> pa.DataType:
    if is_text and isinstance(spec, GraphSourceSpec):
        return graph_type(spec, name, kind, where)
    if is_text and spec.modality == "image":
        if (of_images := _image_type(kind)) is None:
            raise SourceError(
                f"{where}: column {name!r} is {kind}; images are bytes, paths, URIs, or a struct of "
                "bytes and path"
            )
        return of_images
    if is_text and spec.modality == "words":
        plain = _stored(kind)
        if not (pa.types.is_list(plain) or pa.types.is_large_list(plain)) or not _is_text(plain.value_type):
            raise SourceError(f"{where}: column {name!r} is {kind}; words need a column of lists of strings")
        return pa.list_(pa.string())
    if is_text:
        if spec.joined is None and not _is_text(kind):
            raise SourceError(f"{where}: column {name!r} is {kind}; the text needs a string column")
        if not _fits_template(kind):
            raise SourceError(f"{where}: column {name!r} is {kind}, which can't stand in source.template")
        return pa.string()
    if name in spec.types:
        try:
            return pa.type_for_alias(spec.types[name])
        except ValueError as error:
            raise SpecError(
                f"source.types.{name}: {spec.types[name]!r} is not an Arrow type, as int64 or string"
            ) from error
    return pa.string() if pa.types.is_null(kind) else _stored(kind)


def _missing(where: str, name: str, schema: pa.Schema, hive: dict[str, str]) -> str:
    folders = f"; from the folders: {', '.join(hive)}" if hive else ""
    return f"{where}: no column {name!r}; columns: {', '.join(schema.names) or 'none'}{folders}"


def _check_same(
    spec: SourceSpec, chosen: pa.Schema, where: str, schema: pa.Schema, texts: Sequence[str]
) -> None:
    for field in chosen:
        kind = _field_type(schema, field.name)
        if kind is None:
            raise SourceError(_missing(where, field.name, schema, hive_columns(where)))
        read_as = _chosen_type(spec, field.name, kind, where, is_text=field.name in texts)
        if read_as != field.type and not pa.types.is_null(kind):
            raise SourceError(
                f"{where}: column {field.name!r} is {read_as}, but {field.type} in the first file; make "
                "them the same"
            )

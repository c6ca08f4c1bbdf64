"""Types that mean the same: how a column is stored, and what types of several files have in common.

A type of Arrow also says how values lie in memory or on disk: views, dictionaries, 64-bit offsets,
extensions over a storage type. None of it is a difference between two columns.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_UUID = "arrow.uuid"


def is_listed(kind: pa.DataType) -> bool:
    """Tell a list of any layout."""
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def is_string(kind: pa.DataType) -> bool:
    """Tell a column of strings, in whatever way they are stored."""
    return bool(pa.types.is_string(meaning(kind)))


def is_text(kind: pa.DataType) -> bool:
    """Tell strings and bytes in a plain form: what `plain_column` gives of them."""
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
    )
    return any(test(kind) for test in tests)


def is_uuid(kind: pa.DataType) -> bool:
    """Tell a column of UUIDs."""
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == _UUID


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Give the type that a kept column is stored with where all files have this one.

    Dictionary encoding, views and extensions are a matter of the file. Fixed-size lists become
    lists: among the columns of a run they are its vectors.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) else _plain(kind)


def meaning(kind: pa.DataType) -> pa.DataType:
    """Give the plainest type with the same values."""
    if isinstance(kind, pa.BaseExtensionType):
        return meaning(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return meaning(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if is_listed(kind):
        return pa.list_(meaning(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, meaning(field.type)) for field in _fields(kind)])
    if pa.types.is_map(kind):
        return pa.map_(meaning(kind.key_type), meaning(kind.item_type))
    return kind


def common_type(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """Find the type that holds the values of all these types, whichever comes first.

    Nulls fit every type. None where there is no such type, or where values could be lost in it.
    """
    first, *others = kinds
    if all(kind == first for kind in others):
        return first
    common: pa.DataType | None = meaning(first)
    for kind in others:
        common = None if common is None else _joined(common, meaning(kind))
    return common


def _joined(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_list(one) and pa.types.is_list(other):
        inside = _joined(one.value_type, other.value_type)
        return None if inside is None else pa.list_(inside)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _joined_structs(one, other)
    if pa.types.is_map(one) and pa.types.is_map(other):
        key, item = _joined(one.key_type, other.key_type), _joined(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    return _joined_numbers(one, other)


def _joined_structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    kinds: dict[str, list[pa.DataType]] = {}
    for field in chain(_fields(one), _fields(other)):
        kinds.setdefault(field.name, []).append(field.type)
    joined = {name: common_type(both) for name, both in kinds.items()}
    # By name: in a type of two orders neither file would be the one that is right.
    names = [field.name for field in _fields(one)] if _same_names(one, other) else sorted(joined)
    return None if None in joined.values() else pa.struct([(name, joined[name]) for name in names])


def _joined_numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Join two types without an inside that differ; Arrow would lose values of some pairs."""
    pair = (one, other)
    are_whole = [pa.types.is_integer(kind) for kind in pair]
    are_decimal = [pa.types.is_decimal(kind) for kind in pair]
    if all(are_whole):
        if pa.uint64() in pair and any(map(pa.types.is_signed_integer, pair)):
            return None
    elif any(are_whole) and any(map(pa.types.is_floating, pair)):
        return pa.float64()
    elif pa.string() in pair or (any(are_decimal) and not all(are_decimal) and not any(are_whole)):
        return None
    try:
        schemas = [pa.schema([("", kind)]) for kind in pair]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _fields(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(place) for place in range(kind.num_fields)]


def _same_names(one: pa.DataType, other: pa.DataType) -> bool:
    return [field.name for field in _fields(one)] == [field.name for field in _fields(other)]


def _plain(kind: pa.DataType) -> pa.DataType:
    """Undo extensions and views, at any depth; what holds none stays the type that it is."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if not _holds_odd(kind):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in _fields(kind)])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    if is_listed(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _holds_odd(kind: pa.DataType) -> bool:
    odd = isinstance(kind, pa.BaseExtensionType) or any(
        test(kind)
        for test in (
            pa.types.is_string_view,
            pa.types.is_binary_view,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )
    return odd or any(_holds_odd(field.type) for field in _fields(kind))


def plain_column(column: pa.Array) -> pa.Array:
    """Undo dictionary encoding, extensions and views: the same values, held as elsewhere."""
    if isinstance(column.type, pa.BaseExtensionType):
        return plain_column(column.storage)
    if pa.types.is_dictionary(column.type):
        return plain_column(column.dictionary_decode())
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        return plain_column(_list_of_view(column))
    kind = _plain(column.type)
    if kind == column.type:
        return column
    if _holds(column.type, pa.types.is_list_view) or _holds(column.type, pa.types.is_large_list_view):
        # Arrow's cast of views of lists inside others gives arrays that are none.
        return pa.array(column.to_pylist(), kind)
    return column.cast(kind)


def _holds(kind: pa.DataType, test: Callable[[pa.DataType], bool]) -> bool:
    return bool(test(kind)) or any(_holds(field.type, test) for field in _fields(kind))


def _list_of_view(column: pa.Array) -> pa.Array:
    """Make lists of views of lists: their values one behind the other, and where each begins."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    null = np.append(column.is_null().to_numpy(zero_copy_only=False), False)
    values = column.flatten()
    return pa.LargeListArray.from_arrays(pa.array(offsets, mask=null), values)


def uuid_texts(column: pa.Array) -> pa.Array:
    """Write UUIDs as text, in the form that every other system gives them."""
    values = column.storage.to_pylist()
    return pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in values], pa.string())


def image_type(kind: pa.DataType) -> pa.DataType | None:
    """Give the type that a column of images is read with: bytes, a path, or a struct of both.

    None where it holds no images.
    """
    plain = stored_type(kind)
    if pa.types.is_struct(plain):
        parts = {
            plain.field(place).name: image_type(plain.field(place).type) for place in range(plain.num_fields)
        }
        return plain if parts.get("bytes") == pa.binary() or parts.get("path") == pa.string() else None
    if pa.types.is_large_binary(plain) or pa.types.is_fixed_size_binary(plain) or pa.types.is_null(plain):
        return pa.binary()
    return plain if pa.types.is_binary(plain) or pa.types.is_string(plain) else None


def holds_images(kind: pa.DataType) -> bool:
    """Tell whether a column is one of images beyond doubt: bytes, or a struct of bytes and path."""
    plain = stored_type(kind)
    return bool(pa.types.is_binary(plain) or pa.types.is_struct(plain)) and image_type(kind) is not None

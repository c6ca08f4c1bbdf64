"""Parsed values to Arrow columns.

Types found, values converted one by one where some do not fit.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from embed_ops.schema import Reason


def infer_type(values: list[Any]) -> pa.DataType:
    """Choose the type that most values have: one bad value must not turn all others to rejects."""
    counts = Counter(
        "number" if type(value) in (int, float) else type(value).__name__
        for value in values
        if value is not None
    )
    most = counts.most_common(1)[0][0] if counts else "str"
    if most == "bool":
        return pa.bool_()
    if most == "number":
        return pa.float64() if any(isinstance(value, float) for value in values) else pa.int64()
    return pa.string()


def pick(record: dict[str, Any], name: str) -> Any:
    """Look a column up: a key of this very name, else a dotted path; None where it is missing."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def typed_column(
    values: list[Any], field: pa.Field, *, from_text: bool, is_text: bool
) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """Make an Arrow column of parsed values; a value of another type becomes null and is named.

    Args:
        values: parsed values.
        field: name and type of the column.
        from_text: whether values are text to be converted (CSV).
        is_text: whether the column is (part of) the text, where only strings will do; elsewhere a
            string column takes nested JSON as JSON text.
    """
    if pa.types.is_string(field.type) and not is_text and not from_text:
        values = [json_text(value) if isinstance(value, dict | list) else value for value in values]
    try:
        return _convert(values, field.type, from_text), []
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError, RecursionError):
        pass
    bad: list[tuple[int, str, str]] = []
    kept: list[Any] = []
    for index, value in enumerate(values):
        try:
            kept.append(_convert([value], field.type, from_text)[0].as_py())
        except UnicodeEncodeError:
            kept.append(None)
            bad.append((index, Reason.INVALID_UTF8, f"column {field.name!r} is not valid UTF-8"))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, RecursionError):
            kept.append(None)
            given = type(value).__name__ + ("" if isinstance(value, dict | list) else f" {str(value)[:40]!r}")
            bad.append(
                (index, Reason.WRONG_TYPE, f"column {field.name!r} should be {field.type}, found {given}")
            )
    return pa.array(kept, field.type), bad


def json_text(value: Any) -> Any:
    """Write a parsed value as JSON again.

    One nested too deep for that stays what it is, and is of the wrong type.
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return value


def _convert(values: list[Any], kind: pa.DataType, from_text: bool) -> pa.Array:
    if from_text:
        # An empty CSV field is no number: it is no value, as everywhere.
        is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return pa.array(values if is_string else [value or None for value in values], pa.string()).cast(kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        # Arrow would take true for 1.
        if any(isinstance(value, bool) for value in values):
            raise pa.ArrowTypeError("a boolean is no number")
    if pa.types.is_integer(kind) and any(
        isinstance(value, float) and not value.is_integer() for value in values
    ):
        # Arrow would cut the fraction off.
        raise pa.ArrowTypeError("a fraction is no whole number")
    return pa.array(values, kind)

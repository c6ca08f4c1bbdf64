"""Parsed values to Arrow columns.

Types found, values converted one by one where some do not fit.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from embed_ops.schema import Reason

_MISFITS = (
    pa.ArrowInvalid,
    pa.ArrowTypeError,
    pa.ArrowNotImplementedError,
    ValueError,
    OverflowError,
    RecursionError,
)
"""What Arrow raises for a value that a type does not take."""


NATURAL = {b"natural": b""}
"""Metadata of a field whose sampled values are whole numbers from zero on."""


class TypeGuess:
    """Chooses the type that most values have: one bad value must not turn all others to rejects.

    Values are seen one by one and not kept.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._fraction = self._beyond_int64 = self._negative = False

    def see(self, value: Any) -> None:
        """Take a value in."""
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._counts[type(value).__name__] += 1
            return
        self._counts["number"] += 1
        self._fraction = self._fraction or isinstance(value, float)
        self._beyond_int64 = self._beyond_int64 or (isinstance(value, int) and value >= 1 << 63)
        self._negative = self._negative or value < 0

    @property
    def natural(self) -> bool:
        """Whether all were numbers from zero on, without a fraction: uint64 would hold them too."""
        return self.kind in (pa.int64(), pa.uint64()) and not self._negative

    @property
    def kind(self) -> pa.DataType:
        """The type; that of nulls where there was nothing else."""
        most = self._counts.most_common(1)[0][0] if self._counts else None
        if most is None:
            return pa.null()
        if most == "bool":
            return pa.bool_()
        if most != "number":
            return pa.string()
        if self._fraction:
            return pa.float64()
        return pa.uint64() if self._beyond_int64 and not self._negative else pa.int64()


def infer_type(values: list[Any]) -> pa.DataType:
    """Choose the type that most values have; string where all are null."""
    guess = TypeGuess()
    for value in values:
        guess.see(value)
    return pa.string() if pa.types.is_null(guess.kind) else guess.kind


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
    except (*_MISFITS, UnicodeEncodeError):
        pass
    bad: list[tuple[int, str, str]] = []
    kept: list[Any] = []
    for index, value in enumerate(values):
        try:
            kept.append(_convert([value], field.type, from_text)[0].as_py())
        except UnicodeEncodeError:
            kept.append(None)
            bad.append((index, Reason.INVALID_UTF8, f"column {field.name!r} is not valid UTF-8"))
        except _MISFITS:
            kept.append(None)
            given = type(value).__name__ + ("" if isinstance(value, dict | list) else f" {str(value)[:40]!r}")
            # The text has its type whatever source.types says.
            remedy = "" if is_text else f"; source.types.{field.name} can give it another type"
            bad.append(
                (
                    index,
                    Reason.WRONG_TYPE,
                    f"column {field.name!r} should be {field.type}, found {given}{remedy}",
                )
            )
    return pa.array(kept, field.type), bad


def as_text(value: Any) -> Any:
    """Write a parsed value as text: a string as it is, all else as JSON; null stays null."""
    return value if value is None or isinstance(value, str) else json_text(value)


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
    if not pa.types.is_string(kind) and any(_misfit(value, kind) for value in values):
        raise pa.ArrowTypeError("a boolean is no number, and a fraction no whole one")
    return pa.array(values, kind)


def _misfit(value: Any, kind: pa.DataType) -> bool:
    """Tell what Arrow would take though it changes: true for 1, and 1.5 for 1, at any depth."""
    if pa.types.is_integer(kind):
        return isinstance(value, bool) or (isinstance(value, float) and not value.is_integer())
    if pa.types.is_floating(kind):
        return isinstance(value, bool)
    if pa.types.is_list(kind) and isinstance(value, list):
        return any(_misfit(item, kind.value_type) for item in value)
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return any(_misfit(value.get(field.name), field.type) for field in kind.fields)
    return False

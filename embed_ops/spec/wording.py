"""Pydantic's errors in plain sentences: which field, what was found, what is expected."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict


def as_tuple(value: object) -> object:
    """Let a TOML or JSON list stand for a tuple: strict mode would refuse it."""
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
"""A list of strings."""


class Section(BaseModel):
    """A section of the spec: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def sentence(model: type[BaseModel], detail: Mapping[str, Any], tree: Any, prefix: str = "") -> str:
    """Word one pydantic error: which field, what was found, what is expected."""
    address: list[str] = []
    here, kind, found = model, None, tree
    for part in detail["loc"]:
        address.append(str(part))
        kind = here.model_fields[part].annotation if part in here.model_fields else None
        found = found.get(part) if isinstance(found, dict) else detail["input"]
        if _members(kind):
            # What follows in pydantic's address names members of the union, in words of its own.
            break
        here = inner_section(here, part) if part in here.model_fields else here
    name = prefix + ".".join(address) if address else prefix.rstrip(".") or "spec"
    if detail["type"] == "model_type":
        kind = BaseModel
    if _members(kind) or (kind is not None and detail["type"].endswith("_type")):
        return f"{name}: expected {_expected(kind)}, found {found!r}"
    if detail["type"] == "extra_forbidden":
        key = str(detail["loc"][-1])
        known = list(here.model_fields)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        where = f"section [{name.rpartition('.')[0]}]" if "." in name else "the spec"
        return f"{name}: unknown key in {where}; {hint}"
    if detail["type"] == "missing":
        return f"{name}: required and not given ({_described(here, str(detail['loc'][-1]))})"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" + (
        "" if isinstance(detail["input"], dict | BaseModel) else f", found {detail['input']!r}"
    )


def _members(kind: Any) -> list[Any]:
    """List the types that a union offers beside none; nothing where there is no choice."""
    members = (
        [member for member in get_args(kind) if member is not NoneType]
        if get_origin(kind) in (Union, UnionType)
        else []
    )
    return members if len(members) > 1 else []


def _expected(kind: Any) -> str:
    """Say in plain words what a type takes."""
    origin, inside = get_origin(kind), [part for part in get_args(kind) if part is not NoneType]
    if members := _members(kind):
        return " or ".join(_expected(member) for member in members)
    if origin is tuple:
        return (
            f"a list of {_expected(inside[0]).partition(' ')[2]}s"
            if Ellipsis in inside
            else "[min, max] in whole numbers"
        )
    if origin is Annotated and get_origin(inside[0]) is None:
        return f"{_expected(inside[0])} above 0"
    if origin is Literal:
        return " or ".join(str(word) for word in inside)
    words = {
        str: "a string",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        dict: "a table of strings",
    }
    return words.get(origin or kind) or (_expected(inside[0]) if inside else "a section")


def inner_section(model: type[BaseModel], name: str) -> type[BaseModel]:
    """Give the section class of a field, also where it stands inside a tuple.

    The model itself for a plain field.
    """
    annotation = model.model_fields[name].annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return model


def _described(model: type[BaseModel], name: str) -> str:
    field = model.model_fields.get(name)
    return (field.description if field else None) or f"section [{name}]"

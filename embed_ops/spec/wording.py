"""Pydantic's errors in plain sentences: which field, what was found, what is expected."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator


def as_tuple(value: object) -> object:
    """Let a TOML or JSON list stand for a tuple: strict mode would refuse it."""
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
"""A list of strings."""


def folder_name(name: str) -> str:
    """Give back what may name a folder.

    Raises:
        ValueError: it would name another folder than a new one, or could not be typed everywhere.
    """
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", name) is None or name in (".", ".."):
        raise ValueError(
            "a folder is named by it: give up to 255 letters, digits, '_', '-' and '.', and not '.' or '..' "
            "alone"
        )
    return name


def column_name(name: str) -> str:
    """Give back what may name a new column: no path, and nothing that a terminal would obey.

    Raises:
        ValueError: it is one of these.
    """
    if name in ("", ".", "..") or any(sign in "/\\" or not sign.isprintable() for sign in name):
        raise ValueError(
            "a column is named by it: give letters, digits, '_', '-' and '.', no '/', '\\' or control "
            "characters, and not '.' or '..' alone"
        )
    return name


FolderName = Annotated[str, AfterValidator(folder_name)]
"""Of a folder that is made."""
ColumnName = Annotated[str, AfterValidator(column_name)]
"""Of a column that is made."""


class Section(BaseModel):
    """A section of the spec: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Variant(Section):
    """A section whose fields depend on a word in it, as those of `[encoder]` on `family`.

    Attributes:
        CHOICE: the field with the word.
        NOUN: what the word names.
        REMARK: why other members' fields are not for this one; may be empty.
    """

    CHOICE: ClassVar[str]
    NOUN: ClassVar[str]
    REMARK: ClassVar[str] = ""

    @classmethod
    def word(cls) -> str:
        """Give the word that chooses this class."""
        return str(get_args(cls.model_fields[cls.CHOICE].annotation)[0])


def chosen_by(field: str, default: str | None = None) -> Discriminator:
    """Let a word in the section choose among a union's members.

    `default` is the word where it is left out.
    """

    def word(section: Any) -> str | None:
        if isinstance(section, Variant):
            return section.word()
        chosen = section.get(field, default) if isinstance(section, Mapping) else None
        return chosen if isinstance(chosen, str) else None

    return Discriminator(word)


def variants(kind: Any) -> dict[str, type[Variant]]:
    """List the members of such a union by their words; nothing where the type is none."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) not in (Union, UnionType):
        return {}
    members = [
        get_args(member)[0] if get_origin(member) is Annotated else member for member in get_args(kind)
    ]
    if not all(isinstance(member, type) and issubclass(member, Variant) for member in members):
        return {}
    return {member.word(): member for member in members}


def sentence(root: Any, detail: Mapping[str, Any], tree: Any, prefix: str = "") -> str:
    """Word one pydantic error: which field, what was found, what is expected.

    Args:
        root: what was validated: a section, or a union of them.
        detail: the error, as `ValidationError.errors` gives it.
        tree: the values.
        prefix: put in front of the field's address.
    """
    address: list[str] = []
    section, kind, value = None, root, tree
    for part in detail["loc"]:
        if part in (choice := variants(kind)):
            # Pydantic's address names the member that the word chose.
            kind = choice[part]
            continue
        address.append(str(part))
        section = kind if _is_section(kind) else section
        kind = _inside(kind, part)
        value = value.get(part) if isinstance(value, dict) else detail["input"]
        if _members(kind):
            # What follows in pydantic's address names members of the union, in words of its own.
            break
    name = prefix + ".".join(address) if address else prefix.rstrip(".") or "spec"
    if detail["type"].startswith("union_tag"):
        return _unknown_word(name, variants(kind), detail["input"])
    if detail["type"] == "missing" and address[-1] == str(detail["loc"][-1]):
        return f"{name}: required and not given ({_described(section, address[-1])})"
    if _members(kind) or (kind is not None and detail["type"].endswith("_type")):
        return f"{name}: expected {_expected(kind)}, found {value!r}{_as_list(name, kind, value)}"
    if detail["type"] == "extra_forbidden":
        return _unknown_key(name, section, str(detail["loc"][-1]))
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" + (
        "" if isinstance(detail["input"], dict | BaseModel) else f", found {detail['input']!r}"
    )


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _inside(kind: Any, part: str | int) -> Any:
    """Give the type of a section's field or of a list's item; none where there is no such field."""
    if _is_section(kind):
        return kind.model_fields[part].annotation if part in kind.model_fields else None
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _unknown_word(name: str, choice: Mapping[str, type[Variant]], section: Any) -> str:
    """Say that a section's family or kind is none of those that there are."""
    if not isinstance(section, Mapping):
        return f"{name}: expected a section, found {section!r}"
    one = next(iter(choice.values()))
    given = section.get(one.CHOICE)
    near = difflib.get_close_matches(str(given), list(choice), n=1, cutoff=0.5)
    wrong = "required and not given" if given is None else f"no {one.NOUN} is called {given!r}"
    return (
        f"{name + '.' if name != 'spec' else ''}{one.CHOICE}: {wrong}; "
        + (f"did you mean {near[0]!r}? " if near else "")
        + f"known: {', '.join(choice)}"
    )


def _unknown_key(name: str, section: Any, key: str) -> str:
    known = list(section.model_fields)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    where = f"section [{name.rpartition('.')[0]}]" if "." in name else "the spec"
    if not issubclass(section, Variant):
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"{name}: unknown key in {where}; {hint}"
    remark = f" ({section.REMARK})" if section.REMARK else ""
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{name}: unknown key in {where} with {section.CHOICE} = {section.word()!r}{remark}; {hint}"
        f"known: {', '.join(known)}"
    )


def _members(kind: Any) -> list[Any]:
    """List the types that a union offers beside none; nothing where there is no choice."""
    members = (
        [member for member in get_args(kind) if member is not NoneType]
        if get_origin(kind) in (Union, UnionType) and not variants(kind)
        else []
    )
    return members if len(members) > 1 else []


def _as_list(name: str, kind: Any, value: Any) -> str:
    """Show how a text is written where only a list of texts will do, "" elsewhere."""
    if kind != tuple[str, ...] or not isinstance(value, str):
        return ""
    words = [word.strip(" \"'") for word in value.strip("[]").split(",")]
    listed = json.dumps([word for word in words if word], ensure_ascii=False)
    return f"; write {listed}, on a command line '{name}={listed}'"


def _expected(kind: Any) -> str:
    """Say in plain words what a type takes."""
    origin, inside = get_origin(kind), [part for part in get_args(kind) if part is not NoneType]
    if variants(kind):
        return "a section"
    if members := _members(kind):
        return " or ".join(_expected(member) for member in members)
    if origin is tuple:
        return (
            f"a list of {_expected(inside[0]).partition(' ')[2]}s"
            if Ellipsis in inside
            else "[min, max] in whole numbers"
        )
    if origin is Annotated and inside[0] in (int, float):
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


def inner_sections(kind: Any) -> list[type[BaseModel]]:
    """List the section classes of a field, also of a list of them; none for a value."""
    if _is_section(kind):
        return [kind]
    if get_origin(kind) is tuple:
        return inner_sections(get_args(kind)[0])
    return list(variants(kind).values())


def _described(section: Any, name: str) -> str:
    field = section.model_fields.get(name) if section is not None else None
    return (field.description if field else None) or f"section [{name}]"

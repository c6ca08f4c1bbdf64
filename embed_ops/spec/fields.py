"""What the help of the verbs says of the fields of a spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from embed_ops.spec.spec import Spec
from embed_ops.spec.wording import Variant, inner_sections, variants

COMMON = (
    "source.kind",
    "source.path",
    "source.column",
    "source.keep",
    "source.limit",
    "encoder.family",
    "encoder.model",
    "sink.path",
    "resources.replicas",
)
"""Fields that most specs have; the help has them first."""


class FieldHelp(NamedTuple):
    """A field: where a word sets it, as `encoder.outputs.0.name`, its default, its meaning.

    `allowed`: the words that it takes, where these are all or some of its values.
    """

    address: str
    default: str
    meaning: str
    allowed: tuple[str, ...] = ()


def fields(model: type[BaseModel] = Spec, prefix: str = "") -> list[FieldHelp]:
    """List the fields of a section, and of the sections in it.

    Of a section that may be of several kinds: those that all kinds have.
    """
    rows: list[FieldHelp] = []
    for name, field in model.model_fields.items():
        item = ".0" if get_origin(field.annotation) is tuple else ""
        inner, choice = inner_sections(field.annotation), variants(field.annotation)
        if choice:
            rows += _common(choice, f"{prefix}{name}.")
        elif len(inner) == 1:
            rows += fields(inner[0], f"{prefix}{name}{item}.")
        else:
            address, meaning = f"{prefix}{name}", field.description or ""
            rows.append(FieldHelp(address, _default(field), meaning, tuple(_words(field.annotation))))
    return rows


def _words(kind: Any) -> list[str]:
    """List the words that a type takes, wherever in it they stand."""
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    return list(dict.fromkeys(word for inside in get_args(kind) for word in _words(inside)))


def field_groups(model: type[BaseModel] = Spec) -> list[tuple[str, list[FieldHelp]]]:
    """List the fields that not all kinds of a section have.

    Returns:
        for each section and each group of its kinds, as `[encoder] family = image or clip`: the
        fields that just these have.
    """
    groups: list[tuple[str, list[FieldHelp]]] = []
    for section, field in model.model_fields.items():
        choice = variants(field.annotation)
        having: dict[str, tuple[FieldHelp, list[str]]] = {}
        for word, member in choice.items():
            for row in fields(member, f"{section}."):
                having.setdefault(row.address, (row, []))[1].append(word)
        by_words: dict[str, list[FieldHelp]] = {}
        for row, words in having.values():
            if len(words) < len(choice):
                heading = f"[{section}] {next(iter(choice.values())).CHOICE} = {_listed(words)}"
                by_words.setdefault(heading, []).append(row)
        groups += by_words.items()
    return groups


def _listed(words: Sequence[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def _common(choice: dict[str, type[Variant]], prefix: str) -> list[FieldHelp]:
    """List the fields that all kinds of a section have; the word that chooses names each kind."""
    listed = {word: fields(member, prefix) for word, member in choice.items()}
    first, member = next(iter(listed.values())), next(iter(choice.values()))
    rows = []
    for row in first:
        if row.address == f"{prefix}{member.CHOICE}":
            meanings = (f"{word}: {one.model_fields[one.CHOICE].description}" for word, one in choice.items())
            rows.append(row._replace(meaning="; ".join(meanings), allowed=()))
        elif all(any(row.address == other.address for other in others) for others in listed.values()):
            rows.append(row)
    return rows


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    # As a word of the command line has it, for which TOML and JSON are the same.
    empty = field.default is None or field.default == () or field.default == {}
    return "none" if empty else json.dumps(field.default)

"""What a spec is validated from.

A tree of values, made of a TOML file and `section.key=value` words.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embed_ops.errors import SpecError


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SpecError: it can't be read, or is none.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: can't read the spec: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not a TOML file: {error}") from error
    except RecursionError as error:
        raise SpecError(f"{path}: not a spec: lists are nested too deep") from error


def parse_words(words: Iterable[str], tree: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read `section.key=value` words, each value a TOML literal, or a string where it is none.

    Args:
        words: of a command line.
        tree: set in this one, by default in a new one.

    Raises:
        SpecError: a word is none.
    """
    tree = {} if tree is None else tree
    for word in words:
        _apply(tree, word)
    return tree


def _apply(tree: dict[str, Any], word: str) -> None:
    """Set one `section.key=value`; the value is a TOML literal, or a string where it is none."""
    address, equals, text = word.partition("=")
    keys = address.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"{word!r}: expected section.key=value, for example source.path=data/")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except RecursionError as error:
        raise SpecError(f"{address}: lists are nested too deep") from error
    here: Any = tree
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, list):
            if not key.isdigit() or int(key) > len(here):
                raise SpecError(
                    f"{word!r}: {key!r} is not an index of {'.'.join(keys[:depth])}, which has "
                    f"{len(here)} items"
                )
            if int(key) == len(here):
                here.append({})
        elif not isinstance(here, dict):
            raise SpecError(f"{word!r}: {'.'.join(keys[:depth])} is a value, not a section")
        place: Any = int(key) if isinstance(here, list) else key
        if last:
            here[place] = value
        elif isinstance(here, list):
            here = here[place]
        else:
            here = here.setdefault(place, [] if keys[depth + 1].isdigit() else {})


def spec_words(tree: dict[str, Any]) -> list[str]:
    """Write a spec as `section.key=value` words, as `parse_words` reads them.

    A command line with them depends on no file.
    """
    words = []
    for name, value in tree.items():
        fields = (
            {f"{name}.{key}": inner for key, inner in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        words += [f"{field}={literal(inner)}" for field, inner in fields.items() if inner is not None]
    return words


def literal(value: Any) -> str:
    """Write a value as TOML: as JSON, but for tables."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                f"{literal(key)} = {literal(inner)}" for key, inner in value.items() if inner is not None
            )
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

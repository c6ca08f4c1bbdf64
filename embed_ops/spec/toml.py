"""What a spec is validated from.

A tree of values, made of a TOML file and `section.key=value` words.
"""

from __future__ import annotations

import json
import re
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
    file = Path(path)
    if file.is_dir():
        raise SpecError(f"{path}: is a folder, and a spec is a file: `embed-ops init {path}` writes one")
    try:
        # Some editors of Windows put a mark before the first line.
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SpecError(
            f"{path}: can't read the spec: there is no such file; `embed-ops init DATA --output {path}` "
            "writes one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: can't read the spec: {error}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}{_wrong_line(text, str(error))}") from error
    except RecursionError as error:
        raise SpecError(f"{path}: not a spec: lists are nested too deep") from error


_AT = re.compile(r" \(at line (\d+), column \d+\)$")
_PAIR = re.compile(r"\s*([\w.\"-]+)\s*([=:])\s*(.*?)\s*(?:#.*)?$")
_MOST_SHOWN = 80


def _wrong_line(text: str, fault: str) -> str:
    """Say what is wrong with a TOML file: the line, and what was probably meant.

    Args:
        text: the file.
        fault: what the parser says, with the line where it stopped.
    """
    at = _AT.search(fault)
    if at is None:
        return f": not a TOML file: {fault}"
    number = int(at[1])
    line = "".join(text.splitlines()[number - 1 : number])
    guess = _meant(line)
    shown = f"{line.strip()[:_MOST_SHOWN]}{f'; {guess}' if guess else ''}"
    return f", line {number}: not a TOML file: {fault[: at.start()]}: {shown}"


def _meant(line: str) -> str:
    """Guess what a line that is no TOML was meant to be, "" where nothing is near."""
    if line.lstrip().startswith("[") and "]" not in line:
        return "the name of a section ends in ]"
    pair = _PAIR.match(line)
    if pair is None:
        return ""
    key, sign, value = pair[1], pair[2], pair[3]
    text = value.strip("\"'")
    if value.lower() in ("none", "null", ""):
        return f"leave {key} out, or give it a value"
    if "\\" in value:
        why = "in double quotes" if value[0] == '"' else "in a text"
        return f"{why} \\ begins an escape: write {key} = '{text}', in single quotes"
    if value.lower() in ("true", "false"):
        return f"write {key} = {value.lower()}"
    if value[0] in "\"'" and (len(value) == 1 or value[-1] != value[0]):
        return f"a quote is missing: write {key} = {literal(text)}"
    if value[0] == "[":
        inside = [part.strip(" \"'") for part in value.strip("[]").split(",")]
        return f"texts stand in quotes: write {key} = {literal([part for part in inside if part])}"
    if value[0] not in "\"'{":
        return f"texts stand in quotes: write {key} = {literal(text)}"
    return f"write {key} = {value}" if sign == ":" else ""


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

"""What the files of runs hold, as hashes, and in what two sets of them differ."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FOLDERS = ("data", "rejects", "model", "clusters")
"""Folders of a run whose bytes are promised; the others hold times and names of attempts."""
FOOTER_KEY = b"embed_ops"
_CLASS = "class"
"""Key by which a model's JSON names the class of a part: a name that moves with its module."""

Told = dict[str, Any]
"""Of one file: `sha256`, `pages`, `table`, `columns` and `footer`."""
Runs = dict[str, dict[str, Told]]
"""By the name of the run and the file's path in it."""


def _sha256(content: bytes | pa.Buffer) -> str:
    return hashlib.sha256(content).hexdigest()


def table_hash(table: pa.Table) -> str:
    """Hash the schema and the values of a table, without metadata and however it is chunked."""
    sink = pa.BufferOutputStream()
    whole = table.replace_schema_metadata(None).unify_dictionaries().combine_chunks()
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole)
    return _sha256(sink.getvalue())


def _without_classes(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without_classes(value) for name, value in tree.items() if name != _CLASS}
    return [_without_classes(value) for value in tree] if isinstance(tree, list) else tree


def tell(file: Path) -> Told:
    """Say what a file holds.

    Returns:
        `sha256` of its bytes; `pages`, the hash of a Parquet file's bytes before its metadata;
        `table`, the hash of what it means, with `columns` for a table's columns; `footer`, what it
        says of itself: the `embed_ops` entry of a Parquet file, or all of a JSON file, whose
        `table` leaves the names of classes out.
    """
    content = file.read_bytes()
    told: Told = {"sha256": _sha256(content)}
    if file.suffix == ".parquet":
        opened = pq.ParquetFile(pa.BufferReader(content))
        # A Parquet file ends with its metadata, their length in four bytes, and the format's name.
        told["pages"] = _sha256(content[: -8 - int.from_bytes(content[-8:-4], "little")])
        table = opened.read()
        columns = {name: table_hash(table.select([name])) for name in table.column_names}
        footer = json.loads((opened.metadata.metadata or {}).get(FOOTER_KEY, b"{}"))
        return told | {"table": table_hash(table), "columns": columns, "footer": footer}
    if file.suffix == ".json":
        footer = json.loads(content)
        return told | {
            "table": _sha256(json.dumps(_without_classes(footer), sort_keys=True).encode()),
            "footer": footer,
        }
    return told | {"table": told["sha256"], "footer": {}}


def tell_run(root: Path) -> dict[str, Told]:
    """Say what the promised files of a run hold, by path; of a folder that is no run, all files.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = [root / folder for folder in FOLDERS if (root / folder).is_dir()] or [root]
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    if not files:
        raise FileNotFoundError(f"{root}: no file there")
    return {str(file.relative_to(root)): tell(file) for file in files}


def _by_unit(files: dict[str, Told]) -> dict[str, Told]:
    """Name reject files by their unit alone: a hash of their bytes is part of their names."""
    named = {}
    for path, told in files.items():
        unit = path.removesuffix(".parquet").rpartition(".")[0]
        named[f"{unit}.parquet" if path.startswith("rejects/") else path] = told
    return named


def _leaves(tree: Any, address: str = "") -> Iterator[tuple[str, Any]]:
    """List the values of a footer by dotted name."""
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, f"{address}.{name}" if address else name)
    else:
        yield address, tree


def _changed(before: Any, after: Any) -> dict[str, str]:
    """Say which entries of two footers differ, each with both values."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    names = [name for name in {**old, **new} if (name in old, old.get(name)) != (name in new, new.get(name))]
    return {name: f"{_short(old, name)} -> {_short(new, name)}" for name in names}


def _short(values: dict[str, Any], name: str) -> str:
    text = json.dumps(values[name]) if name in values else "none"
    return text if len(text) <= 60 else text[:57] + "..."


def _compare_files(before: Told, after: Told) -> str:
    """Say what differs in a file beside its footer; an empty string where nothing does."""
    if before["sha256"] == after["sha256"]:
        return ""
    if before["table"] != after["table"]:
        old, new = before.get("columns", {}), after.get("columns", {})
        differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return f"table: {', '.join(differing) or 'values'}"
    of_footer = before["footer"] != after["footer"] and before.get("pages") == after.get("pages")
    return "" if of_footer else "encoding: equal values in other bytes"


def _compare_run(before: dict[str, Told], after: dict[str, Told]) -> tuple[list[str], bool]:
    """Say what differs in a run, a line each, and whether more than footers does."""
    old, new = _by_unit(before), _by_unit(after)
    differing = [
        f"  {name}: is there only {'before' if name in old else 'after'}"
        for name in sorted(old.keys() ^ new.keys())
    ]
    footers: Counter[str] = Counter()
    examples: dict[str, str] = {}
    equal = of_footer = 0
    for name in sorted(old.keys() & new.keys()):
        if said := _compare_files(old[name], new[name]):
            differing.append(f"  {name}: {said}")
        elif old[name]["sha256"] == new[name]["sha256"]:
            equal += 1
        else:
            of_footer += 1
        entries = _changed(old[name]["footer"], new[name]["footer"])
        footers.update(entries.keys())
        examples = entries | examples
    counts = f"{equal} files equal, {of_footer} differ in the footer only, {len(differing)} in what they hold"
    entries_said = [
        f"  footer {name} in {files} files: {examples[name]}" for name, files in sorted(footers.items())
    ]
    return [counts, *differing, *entries_said], bool(differing)


def compare_runs(before: Runs, after: Runs) -> tuple[list[str], bool]:
    """Say of each run how many files are equal, and in what the others differ.

    Returns:
        lines to show, and whether anything but footers differs.
    """
    lines, differs = [], False
    for name in {**before, **after}:
        if name not in before or name not in after:
            lines.append(f"{name}: the run is there only {'before' if name in before else 'after'}")
            differs = True
            continue
        (counts, *details), worse = _compare_run(before[name], after[name])
        lines += [f"{name}: {counts}", *details]
        differs |= worse
    return lines, differs

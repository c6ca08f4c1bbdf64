"""Recommendation on baskets that every machine has.

Which modules each module of the installed packages imports.

A user is a module, its items are what it imports; the text of an item is its dotted name and its
docstring. One import of each module is left out, and looked for among ten recommendations.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from record import write_record

from embed_ops import Spec, embed
from embed_ops.analysis.recommend import recommend
from embed_ops.demo import minilm


def imports_of(path: Path, name: str, package: bool) -> tuple[str, list[str]]:
    """Read a file: its docstring, and the full names of what it imports."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return "", []
    found = []
    parts = name.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + int(package)] if node.level else []
            found.append(".".join([*base, node.module] if node.module else base))
    return ast.get_docstring(tree) or "", [item for item in dict.fromkeys(found) if item and item != name]


def baskets(least_items: int, most_files: int) -> tuple[list[str], list[str], dict[str, str]]:
    """Gather (user, item) pairs of modules with enough imports, and the text of each item."""
    users, items, texts = [], [], {}
    roots = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    files = [
        (root, path)
        for root in roots
        for path in sorted(root.rglob("*.py"))
        if root != roots[0] or "site-packages" not in path.parts
    ]
    step = max(1, len(files) // most_files)
    for root, path in files[::step]:
        plain = path.relative_to(root).with_suffix("")
        package = plain.name == "__init__"
        name = ".".join(plain.parts[:-1] if package else plain.parts)
        text, found = imports_of(path, name, package)
        texts[name] = text
        if len(found) >= least_items:
            users += [name] * len(found)
            items += found
    counts = Counter(items)
    wanted = {item for item, count in counts.items() if count >= 2}
    kept = [(user, item) for user, item in zip(users, items, strict=True) if item in wanted]
    return (
        [user for user, _ in kept],
        [item for _, item in kept],
        {item: texts.get(item, "") for item in sorted(wanted)},
    )


def measure(folder: Path, files: int) -> dict[str, Any]:
    """Embed the items, recommend, judge."""
    users, items, texts = baskets(4, files)
    (folder / "items").mkdir()
    spoken = [f"{name.replace('.', ' ').replace('_', ' ')}. {text[:400]}" for name, text in texts.items()]
    pq.write_table(pa.table({"module": list(texts), "text": spoken}), folder / "items" / "a.parquet")
    tree = {
        "source": {"path": str(folder / "items"), "column": "text", "keep": ["module"]},
        "sink": {"path": str(folder / "run")},
    }
    run = embed(Spec.parse(tree | {"encoder": {"model": minilm()}}))
    found = recommend(run.path, users, items, "module", 10, hold_out=True)
    return {"items": len(texts), "users": len(found.users), "pairs": len(users), **found.judged}


def main() -> None:
    """Measure, and write a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000, help="source files to read, at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.files)
    path = write_record("recommend", {"files": options.files, "model": "all-MiniLM-L6-v2", "k": 10}, figures)
    for name, figure in figures.items():
        sys.stdout.write(f"{name}: {figure}\n")
    sys.stdout.write(f"record in {path}\n")


if __name__ == "__main__":
    main()

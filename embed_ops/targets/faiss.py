"""A faiss index, made as a whole once all vectors are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embed_ops.numerics.exact import norms_of
from embed_ops.numerics.topk import Vectors, scaled
from embed_ops.targets.matrix import MatrixFolder

_BLOCK_ROWS = 100_000
"""Rows that an index is trained on, at most, and that are added at once."""


class FaissIndex(MatrixFolder):
    """`index.faiss`: what `faiss.index_factory` makes; its ids are the rows' indexes in the run."""

    kind = "faiss"
    whole = "index.faiss"

    def make(self, vectors: Path) -> Path:
        """Train the index on a sample, where its kind needs that, and add all vectors."""
        import faiss

        x = np.load(vectors, mmap_mode="r")
        index = faiss.index_factory(x.shape[1], self.options.index, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:_BLOCK_ROWS])
            index.train(self._scaled(x[chosen]))
        for first in range(0, len(x), _BLOCK_ROWS):
            index.add(self._scaled(x[first : first + _BLOCK_ROWS]))
        temporary = self.place / ".index.faiss"
        faiss.write_index(index, str(temporary))
        return temporary

    def _scaled(self, x: Any) -> Vectors:
        """Give (rows, dim) vectors whose inner products are the metric."""
        block = np.ascontiguousarray(x, np.float32)
        return scaled(block, norms_of(block)) if self.options.metric == "cosine" else block

"""A faiss index, made as a whole once all vectors are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from embed_ops.errors import SpecError
from embed_ops.numerics.exact import norms_of
from embed_ops.numerics.topk import Vectors, scaled
from embed_ops.targets.base import Contents, Options
from embed_ops.targets.matrix import MatrixFolder

_BLOCK_ROWS = 100_000
"""Rows that an index is trained on, at most, and that are added at once."""
_TRIED_ROWS = 2_000
"""Rows up to which an index is made of drawn vectors first: then faiss says what it lacks."""
_NOTHING = re.compile(r"[A-Za-z]0+(?!\d)")
"""A number of lists or neighbours that is 0, of which faiss ends the whole process."""


class FaissIndex(MatrixFolder):
    """`index.faiss`: what `faiss.index_factory` makes; its ids are the rows' indexes in the run."""

    kind = "faiss"
    whole = "index.faiss"

    def begin(self, contents: Contents, options: Options) -> None:
        """Claim the folder, once faiss takes the index for so many vectors of such a width.

        Raises:
            SpecError: it does not, in its own words; or the folder holds something else.
        """
        if _NOTHING.search(options.index):
            raise SpecError(f"--index {options.index}: a number in it is 0; give a number of at least 1")
        index = _factory(options.index, contents.dim)
        if not 0 < contents.rows <= _TRIED_ROWS:
            _require_enough(index, contents, options)
        else:
            drawn = np.random.default_rng(0).standard_normal((contents.rows, contents.dim), np.float32)
            _fill(index, drawn, options)
        super().begin(contents, options)

    def make(self, vectors: Path) -> Path:
        """Train the index on a sample, where its kind needs that, and add all vectors."""
        import faiss

        x = np.load(vectors, mmap_mode="r")
        index = _factory(self.options.index, x.shape[1])
        _fill(index, x, self.options)
        temporary = self.place / ".index.faiss"
        faiss.write_index(index, str(temporary))
        return temporary


def _factory(named: str, dim: int) -> Any:
    """Let faiss make an index.

    Raises:
        SpecError: it knows none of that name.
    """
    import faiss

    try:
        return faiss.index_factory(dim, named, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise _refused(named, error) from error


def _fill(index: Any, x: Any, options: Options) -> None:
    """Train an index on some of (rows, dim) vectors, where it needs that, and add all of them."""
    try:
        if not index.is_trained:
            chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:_BLOCK_ROWS])
            index.train(_scaled(x[chosen], options))
        for first in range(0, len(x), _BLOCK_ROWS):
            index.add(_scaled(x[first : first + _BLOCK_ROWS], options))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _refused(options.index, error) from error


def _scaled(x: Any, options: Options) -> Vectors:
    """Give (rows, dim) vectors whose inner products are the metric."""
    block = np.ascontiguousarray(x, np.float32)
    return scaled(block, norms_of(block)) if options.metric == "cosine" else block


def _require_enough(index: Any, contents: Contents, options: Options) -> None:
    """Refuse more lists than there are vectors to find their centres by."""
    import faiss

    try:
        lists = int(faiss.extract_index_ivf(index).nlist)
    except RuntimeError:
        return
    if lists > (most := min(contents.rows, _BLOCK_ROWS)):
        raise SpecError(
            f"--index {options.index}: {lists:,} lists need as many vectors to be trained on, and at most "
            f"{most:,} are taken; give fewer lists"
        )


def _refused(named: str, error: BaseException) -> SpecError:
    """Give faiss's word, without where in its source it was said."""
    told = re.sub(r"^Error in .*? at \S+:\d+: ", "", str(error).strip().replace("\n", " "))
    cause = re.sub(r"^Error: '.*?' failed: (?=\S)", "", told)
    return SpecError(
        f"--index {named!r}: faiss can't make it: {cause}; give what `faiss.index_factory` takes"
    )

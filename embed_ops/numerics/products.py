"""Products on the device that a worker has: the greatest of each row, sums by segment, a scatter.

Stages do not ask which device that is. On a GPU float32 products choose candidates, as they do on
a CPU, and the same float64 sums decide (`exact.py`): labels and neighbours are equal on both. Sums
by segment add the same float64 numbers in the same order. A scatter matrix differs in its last
bits, as between any two kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

ROWS = 65_536
"""Rows that go to a device at once: fewer would not fill it."""
_TILE = 1 << 27
"""Most scores that are held at once (512 MB)."""
_COLUMNS = 16_384
_device: ContextVar[str | None] = ContextVar("device", default=None)


@contextmanager
def computing_on(device: str | None) -> Iterator[None]:
    """Let products of this thread run on a device of torch; None: by numpy."""
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)
        if device not in (None, "cpu"):
            # This process may wait for its next call while others need the memory.
            _torch().cuda.empty_cache()  # GPU only


def device() -> str | None:
    """Name the device of products, None where numpy computes them."""
    return _device.get()


def _torch() -> Any:
    """Import torch where products run on a device; workers without one need none of it."""
    import torch

    return torch


def on_device(array: Any) -> Any:
    """Move an array to the device; a tensor is there already."""
    torch = _torch()
    if isinstance(array, torch.Tensor):
        return array

    # TF32 has ten bits: bounds on the errors of float32 would not hold.
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.from_numpy(np.ascontiguousarray(array)).to(_device.get() or "cpu")


def scatter_of(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Compute x.T @ x of (rows, dim), in its own type: (dim, dim)."""
    if _device.get() is None:
        product: npt.NDArray[Any] = x.T @ x
        return product
    there = on_device(x)
    scatter: npt.NDArray[Any] = (there.T @ there).cpu().numpy()
    return scatter


def segment_sums(x: npt.NDArray[Any], order: Ints, ends: Ints) -> Floats:
    """Sum rows by segment in float64, one after another in the order given.

    Args:
        x: (rows, dim).
        order: (chosen,) rows, those of one segment behind one another.
        ends: (segments + 1,) where segments begin and end in `order`.

    Returns:
        (segments, dim), the same bits on every device.
    """
    if _device.get() is None:
        from scipy.sparse import csr_matrix

        chosen = csr_matrix((np.ones(len(order)), order, ends), shape=(len(ends) - 1, len(x)))
        product: Floats = chosen @ x
        return product
    bags = _torch().nn.functional.embedding_bag
    there = bags(
        on_device(order), on_device(x).double(), on_device(ends), mode="sum", include_last_offset=True
    )
    sums: Floats = there.cpu().numpy()
    return sums


def pairs_above(left: Vectors, right: Vectors, least: float) -> tuple[Ints, Ints, Vectors]:
    """Find the pairs of rows whose product reaches `least`: rows of both, and the products."""
    if _device.get() is None:
        products = left @ right.T
        one, other = np.nonzero(products >= least)
        return one, other, products[one, other]
    there = on_device(left) @ on_device(right).T
    one, other = (there >= least).nonzero(as_tuple=True)
    return one.cpu().numpy(), other.cpu().numpy(), there[one, other].cpu().numpy()


class Columns:
    """Vectors with which rows are multiplied, on the device.

    Args:
        columns: (count, dim) float32, as an array or on the device.
        less: (count,) what is taken off each product; by default nothing.
    """

    def __init__(self, columns: Any, less: npt.NDArray[Any] | None = None) -> None:
        self.count = len(columns)
        self._columns = on_device(columns)
        self._less = None if less is None else on_device(less.astype(np.float32))

    def greatest(self, rows: Any, count: int) -> tuple[Ints, Vectors]:
        """Find the greatest products of each row, greatest first.

        Args:
            rows: (rows, dim) float32, as an array or on the device.
            count: of each row, at most as many as there are columns.

        Returns:
            (rows, count) numbers of columns, and their scores, as float32 products give them.
        """
        there = on_device(rows)
        step = max(1, _TILE // min(self.count, _COLUMNS))
        parts = [self._of_part(there[first : first + step], count) for first in range(0, len(there), step)]
        if not parts:
            return np.empty((0, count), np.int64), np.empty((0, count), np.float32)
        places, scores = (_torch().cat(of_parts).cpu().numpy() for of_parts in zip(*parts, strict=True))
        return places, scores

    def _of_part(self, rows: Any, count: int) -> tuple[Any, Any]:
        torch = _torch()
        places = scores = None
        for first in range(0, self.count, _COLUMNS):
            columns = self._columns[first : first + _COLUMNS]
            products = rows @ columns.T  # (rows, columns)
            if self._less is not None:
                products -= self._less[first : first + _COLUMNS]
            best = products.topk(min(count, len(columns)), dim=1)
            found, values = best.indices + first, best.values
            if places is not None and scores is not None:
                found, values = torch.cat([places, found], dim=1), torch.cat([scores, values], dim=1)
                best = values.topk(min(count, values.shape[1]), dim=1)
                found, values = found.gather(1, best.indices), best.values
            places, scores = found, values
        return places, scores

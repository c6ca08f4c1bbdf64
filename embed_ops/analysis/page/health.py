"""Figures of a sample of vectors, and its layout in the plane. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.lazy import require
from embed_ops.numerics.exact import norms_of
from embed_ops.numerics.tiles import unit_length
from embed_ops.numerics.topk import Vectors

_PAIRS = 20_000
_DEAD = 1e-6
"""A dimension that spreads less than this share of the widest says nothing."""
_UMAP_NEIGHBORS = 15


def health(x: Vectors, seed: int) -> dict[str, Any]:
    """Give the figures of (rows, dim) vectors.

    Norms, spread, dead dimensions, anisotropy, duplicates and explained variance.

    Anisotropy is the mean cosine of random pairs (Ethayarajh 2019); the effective dimension is the
    participation ratio of the variances.
    """
    wide = x.astype(np.float64)
    norms = norms_of(x)
    unit = wide / np.where(norms > 0, norms, 1.0)[:, None]
    draw = np.random.default_rng(seed)
    left, right = draw.integers(0, len(x), (2, _PAIRS))
    apart = left != right
    cosines = np.vecdot(unit[left[apart]], unit[right[apart]])
    spread = wide.std(axis=0)
    variances = _variances(wide)
    total = variances.sum()
    explained = np.cumsum(variances) / total if total > 0 else np.ones(len(variances))
    counts = np.unique(
        np.ascontiguousarray(x).view(np.dtype((np.void, x.dtype.itemsize * x.shape[1]))).ravel(),
        return_counts=True,
    )[1]
    return {
        "rows": len(x),
        "dim": x.shape[1],
        "norms": norms,
        "spread": spread,
        "mean": wide.mean(axis=0),
        "dead": _dead(spread, len(x)),
        "zeros": int((norms == 0).sum()),
        "spread_rows": len(x),
        "whole": False,
        "mean_cosine": float(cosines.mean()) if len(cosines) else float("nan"),
        "cosines": cosines,
        "mean_length": float(np.linalg.norm(unit.mean(axis=0))),
        "duplicates": int(len(x) - len(counts)),
        "explained": explained,
        "for_90": int(np.searchsorted(explained, 0.9) + 1),
        "effective": float(total**2 / (variances**2).sum()) if total > 0 else 0.0,
    }


def _variances(wide: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give the eigenvalues of the covariance (ddof 1) of (rows, dim), largest first.

    (dim,), off the smaller of its two Gram matrices.
    """
    rows, dim = wide.shape
    variances = np.zeros(dim)
    if rows > 1:
        apart = wide - wide.mean(axis=0)
        values = np.linalg.eigvalsh(apart.T @ apart if dim <= rows else apart @ apart.T)[::-1] / (rows - 1)
        variances[: len(values)] = np.maximum(values, 0.0)
    return variances


def over_all_rows(figures: dict[str, Any], statistics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the statistics of all rows in the place of the sample's.

    `statistics` are those of `report.json`; nothing is put where they are not of all rows.
    """
    if not statistics or not statistics["complete"]:
        return figures
    spread = np.sqrt(np.asarray(statistics["variance"], np.float64))
    return figures | {
        "whole": True,
        "spread_rows": statistics["rows"],
        "zeros": statistics["zero_vectors"],
        "spread": spread,
        "mean": np.asarray(statistics["mean"]),
        "dead": _dead(spread, statistics["rows"]),
    }


def _dead(spread: npt.NDArray[np.float64], rows: int) -> int:
    """Count the dimensions that do not change; a single row has none."""
    return int((spread <= _DEAD * spread.max(initial=0.0)).sum()) if rows > 1 else 0


def layout(x: Vectors, method: str, seed: int) -> tuple[npt.NDArray[np.float64], str]:
    """Lay rows out in the plane: (rows, 2), and by which method.

    Auto: UMAP where it is installed, else t-SNE.

    Raises:
        PackageError: UMAP is asked for and not installed.
    """
    if len(x) < 5 or x.shape[1] < 2 or np.allclose(x, x[0]):
        method = "pca"
    if method == "auto":
        import importlib.util

        method = "umap" if importlib.util.find_spec("umap") else "tsne"
    if method == "umap":
        umap = require("umap", "umap", "--layout umap")
        near = min(_UMAP_NEIGHBORS, len(x) - 1)
        fit = umap.UMAP(n_neighbors=near, metric="cosine", random_state=seed, n_jobs=1)
        return np.asarray(fit.fit_transform(x), np.float64), "UMAP"
    centered = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(centered, full_matrices=False)[2] if len(x) > 1 else np.zeros((1, x.shape[1]))
    if method == "pca":
        plane = np.zeros((len(x), 2))
        plane[:, : min(2, len(axes))] = centered @ axes[:2].T
        return plane, "principal components"
    from sklearn.manifold import TSNE

    reduced = centered @ axes[:50].T
    perplexity = min(30.0, (len(x) - 1) / 3)
    fit = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(fit.fit_transform(unit_length(reduced)), np.float64), "t-SNE"

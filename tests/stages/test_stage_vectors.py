"""`normalize`, `project`, `truncate`, `quantize` against their reference libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.random_projection import (
    GaussianRandomProjection,
    SparseRandomProjection,
    johnson_lindenstrauss_min_dim,
)
from stage_data import Array, cancer, digits, fitted, same_bits

from embed_ops.errors import SpecError, StageError
from embed_ops.stages.project import distortion


def worst(found: Array, wanted: Array) -> float:
    """Give the greatest difference."""
    return float(np.abs(found.astype(np.float64) - wanted).max())


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_l2(scale: float) -> None:
    """Rows have length 1 as scikit-learn's, whatever their length was; a row of zeros stays one."""
    x = cancer() * np.float32(scale)
    x[7] = 0.0
    found = fitted(x, kind="normalize").transform(x)
    assert found.dtype == np.float32
    # Scaled back first: scikit-learn takes rows shorter than 2e-15 for zeros.
    assert worst(found, Normalizer().fit_transform(x.astype(np.float64) / scale)) <= 1e-7
    assert not found[7].any()
    norms = np.linalg.norm(np.delete(found, 7, axis=0).astype(np.float64), axis=1)
    assert worst(norms, np.ones(len(norms))) <= 1e-6


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_standardize(offset: float) -> None:
    """Mean and scale are those of StandardScaler, of one block and of several, at any offset."""
    for x in (digits()[0], np.tile(digits()[0], (12, 1))):
        x = x + np.float32(offset)
        model, wanted = (
            fitted(x, kind="normalize", method="standardize"),
            StandardScaler().fit(x.astype(np.float64)),
        )
        assert worst(model.mean, wanted.mean_) <= 1e-12 * max(1, offset)
        assert worst(model.scale / wanted.scale_, 1) <= 1e-10
        assert worst(model.transform(x), wanted.transform(x.astype(np.float64))) <= 1e-5
        assert model.report() == {"method": "standardize", "constant_dimensions": 3}


def test_standardize_one_row_and_constants() -> None:
    """One row becomes zeros, and a constant dimension is centred only."""
    row = np.array([[3.0, -2.0, 0.1]], np.float32)
    assert not fitted(row, kind="normalize", method="standardize").transform(row).any()
    x = np.full((9000, 3), [0.1, 1e4 / 3, 0.0], np.float32)
    x[:, 2] = np.arange(9000)
    model = fitted(x, kind="normalize", method="standardize")
    assert model.constant == 2
    assert np.array_equal(model.scale[:2], [1.0, 1.0])
    assert np.abs(model.transform(x)[:, :2]).max() <= 1e-9


@pytest.mark.parametrize("method", ["gaussian", "sparse"])
def test_project_keeps_distances(method: str) -> None:
    """Distances change by no more than the bound that the report promises.

    Another seed draws another matrix.
    """
    x = np.random.default_rng(0).standard_normal((200, 4000)).astype(np.float32)
    model = fitted(x, kind="project", dim=1200, method=method)
    ratio = pdist(model.transform(x).astype(np.float64)) / pdist(x.astype(np.float64))
    assert abs(ratio.mean() - 1) < 0.02
    assert (np.abs(ratio**2 - 1) <= model.distortion).all()
    assert model.report() == {"method": method, "dim": 1200, "johnson_lindenstrauss_bound": model.distortion}
    again, other = (fitted(x[:5], seed, kind="project", dim=1200, method=method) for seed in (0, 1))
    assert same_bits(again.matrix, model.matrix)
    assert not np.array_equal(other.matrix, model.matrix)


def test_project_scales_as_scikit_learn() -> None:
    """Entries have the mean square, share of zeros and size of scikit-learn's matrices."""
    x = np.zeros((10, 900), np.float32)
    for method, kind in (("gaussian", GaussianRandomProjection), ("sparse", SparseRandomProjection)):
        found = fitted(x, kind="project", dim=400, method=method).matrix
        wanted = kind(400, random_state=0).fit(x).components_
        wanted = wanted.toarray() if method == "sparse" else wanted
        assert (found**2).mean() == pytest.approx((wanted**2).mean(), rel=0.02)
        assert (found == 0).mean() == pytest.approx((wanted == 0).mean(), abs=0.002)
        if method == "sparse":
            assert np.abs(found).max() == pytest.approx(np.abs(wanted).max(), rel=1e-6)
            assert (found > 0).mean() == pytest.approx((found < 0).mean(), abs=0.002)


def test_johnson_lindenstrauss() -> None:
    """The bound is scikit-learn's, turned around.

    There is none where a few dimensions promise nothing.
    """
    for rows in (10, 1000, 1_000_000):
        for share in (0.1, 0.3, 0.7):
            assert distortion(rows, int(johnson_lindenstrauss_min_dim(rows, eps=share)) + 1) == pytest.approx(
                share, abs=6e-3
            )
    assert distortion(1_000_000, 10) is None
    assert fitted(cancer(), kind="project", dim=3).report()["johnson_lindenstrauss_bound"] == "more than 1"


def test_truncate() -> None:
    """The first dimensions are kept and brought back to length 1, or left as they are.

    A row of zeros stays one.
    """
    x = cancer().copy()
    x[3, :8] = 0.0
    found = fitted(x, kind="truncate", dim=8).transform(x)
    assert worst(found, Normalizer().fit_transform(x[:, :8].astype(np.float64))) <= 1e-7
    assert not found[3].any()
    assert same_bits(
        fitted(x, kind="truncate", dim=8, normalize=False).transform(x), np.ascontiguousarray(x[:, :8])
    )
    assert same_bits(fitted(x, kind="truncate", dim=30, normalize=False).transform(x), x)


@pytest.mark.parametrize("to", ["int8", "uint8", "binary", "ubinary"])
def test_quantize_as_sentence_transformers(to: str) -> None:
    """Codes are those of sentence-transformers with the same ranges, also beyond them."""
    from sentence_transformers.util import quantize_embeddings

    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((9000, 61)), digits()[0][:900, :61] - 8]).astype(np.float32)
    x[:, 5] = 2.5
    model = fitted(x, kind="quantize", to=to)
    ranges = np.stack([x.min(axis=0), x.max(axis=0)])
    for rows in (x, x * 3):
        found = model.transform(rows)
        wanted = quantize_embeddings(rows, precision=to, ranges=None if "binary" in to else ranges)
        assert same_bits(found, np.ascontiguousarray(wanted))
    if "binary" not in to:
        assert model.report() == {"to": to, "constant_dimensions": 1}


@pytest.mark.parametrize("to", ["int8", "uint8"])
def test_quantize_and_back(to: str) -> None:
    """Codes turn back into values at most a step away; what is constant has the least code."""
    x = digits()[0].copy()
    model = fitted(x, kind="quantize", to=to)
    codes = model.transform(x)
    step = (x.max(axis=0) - x.min(axis=0)) / 255
    varying = step > 0
    apart = np.abs(model.inverse(codes) - x)
    assert (apart[:, varying] <= step[varying] * (0.5 + 1e-4)).sum() >= 0.99 * apart[:, varying].size
    assert (apart[:, varying] <= step[varying] * 1.0001).all()
    least = np.iinfo(codes.dtype).min
    assert (codes[:, ~varying] == least).all()
    assert codes.min() == least
    assert codes.max() == np.iinfo(codes.dtype).max


def test_constant_dimension_and_back() -> None:
    """What is constant comes back as it is."""
    x = np.full((20, 3), [2.5, 0.0, -1e4], np.float32)
    model = fitted(x, kind="quantize")
    assert same_bits(model.inverse(model.transform(x)), x)


def test_bits_and_back() -> None:
    """Bits come back as signs, also where the width is no multiple of eight.

    Zero counts as negative.
    """
    x = np.random.default_rng(0).standard_normal((50, 13)).astype(np.float32)
    x[0] = 0.0
    for to in ("binary", "ubinary"):
        model = fitted(x, kind="quantize", to=to)
        codes = model.transform(x)
        assert codes.shape == (50, 2)
        assert np.array_equal(model.inverse(codes), np.where(x > 0, 1.0, -1.0))
        assert model.report() == {"to": to}


@pytest.mark.parametrize("percentile", [0.1, 1.0, 25.0])
def test_percentiles(percentile: float) -> None:
    """A share of the rows at either end is left out of the range, and clipped to its ends."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30_000, 5)).astype(np.float32)
    x[0], x[1], x[:, 4] = 1000.0, -1000.0, 3.0
    model = fitted(x, kind="quantize", to="uint8", percentile=percentile)
    low, high = np.percentile(x.astype(np.float64), [percentile, 100 - percentile], axis=0)
    bins = 2048 / 8192
    assert worst(model.low[:4], low[:4]) <= 2 * bins
    assert worst(model.high[:4], high[:4]) <= 2 * bins
    assert model.low[4] == model.high[4] == 3.0
    codes = model.transform(x)
    assert (codes[0, :4] == 255).all()
    assert (codes[1, :4] == 0).all()


def test_one_row_has_codes() -> None:
    """One row has a range of no width: its codes are the least, and nothing is divided by zero."""
    row = np.array([[1.0, -2.0, 0.0]], np.float32)
    for percentile in (0.0, 1.0):
        with np.errstate(all="raise"):
            assert (fitted(row, kind="quantize", percentile=percentile).transform(row) == -128).all()


BAD = [
    ({"kind": "project", "dim": 31}, "project: dim = 31, but the vectors have 30 dimensions"),
    ({"kind": "truncate", "dim": 31}, "truncate: dim = 31, but the vectors have 30 dimensions"),
]


@pytest.mark.parametrize(("section", "sentence"), BAD, ids=[section["kind"] for section, _ in BAD])
def test_too_wide(section: dict[str, Any], sentence: str) -> None:
    """More dimensions than there are, are refused."""
    with pytest.raises(StageError, match=sentence):
        fitted(cancer(), **section)


NEED_ROWS = [
    {"kind": "quantize"},
    {"kind": "normalize", "method": "standardize"},
    {"kind": "center"},
    {"kind": "kmeans", "k": 1},
]


@pytest.mark.parametrize("section", NEED_ROWS, ids=[section["kind"] for section in NEED_ROWS])
def test_no_rows(section: dict[str, Any]) -> None:
    """What is learnt from rows can't be learnt from none; what is not, can be applied to none."""
    with pytest.raises(StageError, match=f"{section['kind']}: .*rows"):
        fitted(cancer()[:0], **section)
    for other in (
        {"kind": "normalize"},
        {"kind": "truncate", "dim": 3},
        {"kind": "project", "dim": 3},
        {"kind": "quantize", "to": "binary"},
    ):
        assert len(fitted(cancer()[:0], **other).transform(cancer()[:0])) == 0


def test_bad_sections() -> None:
    """An unknown code, a percentile of half the rows and a width of zero are no sections."""
    for section in (
        {"kind": "quantize", "to": "int4"},
        {"kind": "quantize", "percentile": 50.0},
        {"kind": "truncate", "dim": 0},
    ):
        with pytest.raises(SpecError, match=list(section)[1]):
            fitted(cancer(), **section)

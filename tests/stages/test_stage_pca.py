"""`pca`, `whiten`, `center` against full SVD and numpy, near and far from the origin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from stage_data import Array, cancer, digits, fitted

from embed_ops.errors import SpecError, StageError

OFFSETS = [0.0, 1e2, 1e4]


def grid(rows: int, dim: int, offset: float = 0.0) -> Array:
    """Draw correlated rows on a grid that float32 holds exactly also at an offset of 1e4."""
    rng = np.random.default_rng(5)
    x = (
        rng.standard_normal((rows, dim))
        * np.linspace(1, 9, dim)
        @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    )
    return (np.round(x * 256) / 256 + offset).astype(np.float32)


def reference(x: Array, components: float) -> Any:
    """Fit scikit-learn's PCA by full SVD in float64."""
    return PCA(components, svd_solver="full").fit(x.astype(np.float64))


def worst(found: Array, wanted: Array) -> float:
    """Give the greatest difference."""
    return float(np.abs(found - wanted).max())


def test_published_ratios() -> None:
    """The ratios of explained variance of the digits are the published ones."""
    ratio = fitted(digits()[0], kind="pca", dim=30).explained_variance_ratio
    assert ratio[:3] == pytest.approx([0.14890594, 0.13618771, 0.11794594], abs=5e-9)
    assert ratio.sum() == pytest.approx(0.9590854, abs=5e-8)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("data", ["digits", "many blocks"])
def test_full_svd(data: str, offset: float) -> None:
    """Variances to 1e-10 and signed components to 1e-8 of full SVD, whatever the mean."""
    x = digits()[0] + np.float32(offset) if data == "digits" else grid(20_000, 24, offset)
    model, wanted = fitted(x, kind="pca", dim=20), reference(x, 20)
    for name in ("explained_variance", "explained_variance_ratio", "singular_values"):
        assert worst(getattr(model, name) / getattr(wanted, f"{name}_"), 1) <= 1e-10
    assert worst(model.components, wanted.components_) <= 1e-8
    assert worst(model.mean, wanted.mean_) <= 1e-12 * max(1, offset)
    assert model.noise_variance == pytest.approx(wanted.noise_variance_, rel=1e-10)
    assert worst(model.transform(x), wanted.transform(x.astype(np.float64))) <= 5e-6
    assert (model.rows, model.residual) == (len(x), 0.0)


@pytest.mark.parametrize("offset", OFFSETS)
def test_single_precision(offset: float) -> None:
    """With float32 products variances are right to 1e-6, at a mean of thousands of spreads to 1e-5.

    Auto is float64 at this width.
    """
    x = grid(20_000, 24, offset)
    model, wanted = fitted(x, kind="pca", dim=20, precision="float32"), reference(x, 20)
    assert 0 < worst(model.explained_variance / wanted.explained_variance_, 1) <= 1e-6 * max(1, offset / 1e3)
    assert worst(model.components, wanted.components_) <= 1e-4
    assert worst(model.mean, wanted.mean_) <= 1e-7 * max(1, offset)
    assert np.array_equal(
        fitted(x, kind="pca", dim=20, precision="float64").components,
        fitted(x, kind="pca", dim=20).components,
    )


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9, 0.95, 0.999])
def test_share_of_variance(share: float) -> None:
    """A share keeps as many components as scikit-learn does."""
    assert (
        len(fitted(digits()[0], kind="pca", dim=share).components)
        == reference(digits()[0], share).n_components_
    )


def test_fewer_rows_than_dimensions() -> None:
    """With n < d there are at most n components, and they are scikit-learn's.

    The last one has no variance.
    """
    x = digits()[0][:20]
    model, wanted = fitted(x, kind="pca", dim=20), reference(x, 20)
    assert (
        worst(model.explained_variance, wanted.explained_variance_) <= 1e-10 * wanted.explained_variance_[0]
    )
    assert worst(model.components[:19], wanted.components_[:19]) <= 1e-8
    assert model.explained_variance[19] <= 1e-12 * model.explained_variance[0]
    assert model.noise_variance == 0.0
    assert worst(model.inverse(model.transform(x)), x) <= 1e-5


def test_inverse_and_projection() -> None:
    """All components give the rows back; fewer lose exactly the variance that is left out."""
    x = cancer()
    model = fitted(x, kind="pca", dim=30)
    assert worst(model.inverse(model.transform(x)), x) <= 1e-5
    few = fitted(x, kind="pca", dim=5)
    lost = ((few.inverse(few.transform(x)) - x.astype(np.float64)) ** 2).sum() / (len(x) - 1)
    assert lost == pytest.approx(model.explained_variance[5:].sum(), rel=1e-5)
    assert few.report()["explained"] == pytest.approx(model.explained_variance_ratio[:5].sum())
    assert few.report()["dim"] == 5


@pytest.mark.parametrize("offset", OFFSETS)
def test_subspace(offset: float) -> None:
    """Block subspace iteration comes near the exact solver, and says how near."""
    x = digits()[0] + np.float32(offset)
    model, wanted = fitted(x, kind="pca", dim=8, solver="subspace"), fitted(x, kind="pca", dim=8)
    assert worst(model.explained_variance / wanted.explained_variance, 1) <= 1e-4
    assert worst(model.components, wanted.components) <= 1e-2
    assert worst(model.components @ model.components.T, np.eye(8)) <= 1e-12
    assert worst(model.mean, wanted.mean) <= 1e-12 * max(1, offset)
    assert worst(model.explained_variance_ratio, wanted.explained_variance_ratio) <= 1e-5
    assert 0 < model.residual < 1e-2
    assert model.noise_variance == pytest.approx(wanted.noise_variance, rel=1e-4)


def test_subspace_of_all_directions() -> None:
    """With as many directions as dimensions nothing is approximate."""
    x = grid(500, 12)
    model, wanted = fitted(x, kind="pca", dim=6, solver="subspace"), reference(x, 6)
    assert worst(model.explained_variance / wanted.explained_variance_, 1) <= 1e-10
    assert worst(model.components, wanted.components_) <= 1e-8


def test_constant_and_repeated() -> None:
    """Rows that are all equal have no variance, which is a result and no error.

    A constant dimension has no weight.
    """
    model = fitted(np.full((9, 4), 3.0), kind="pca", dim=2)
    assert (model.explained_variance == 0).all()
    assert (model.explained_variance_ratio == 0).all()
    assert np.abs(model.transform(np.full((2, 4), 3.0, np.float32))).max() == 0
    x = grid(300, 6)
    x[:, 2] = 7.0
    assert np.abs(fitted(x, kind="pca", dim=5).components[:, 2]).max() <= 1e-12
    for solver in ("covariance", "subspace"):
        assert np.isfinite(fitted(np.ones((40, 20)), kind="pca", dim=2, solver=solver).components).all()


BAD = [
    ({"kind": "pca", "dim": 9}, (20, 8), "dim = 9"),
    ({"kind": "pca", "dim": 5}, (4, 8), "at most 4 components"),
    ({"kind": "pca", "dim": 1}, (1, 8), "1 rows have no variance"),
    ({"kind": "pca", "dim": 0.9, "solver": "subspace"}, (20, 8), "share of variance"),
    ({"kind": "whiten"}, (1, 8), "1 rows have no variance"),
    ({"kind": "whiten", "dim": 9}, (20, 8), "dim = 9"),
    ({"kind": "whiten", "dim": 8}, (5, 8), "only 4 dimensions have variance"),
    ({"kind": "center", "components": 8}, (20, 8), "components = 8"),
]


@pytest.mark.parametrize(("section", "shape", "sentence"), BAD, ids=[sentence for _, _, sentence in BAD])
def test_bad_input(section: dict[str, Any], shape: tuple[int, int], sentence: str) -> None:
    """What the data can't give is refused in a sentence that names the field and the figures."""
    with pytest.raises(StageError, match=sentence) as raised:
        fitted(np.random.default_rng(0).standard_normal(shape), **section)
    assert str(raised.value).startswith(f"{section['kind']}: ")


def test_bad_spec() -> None:
    """A share of 1, no component at all, and a width with ZCA are no sections."""
    for section in (
        {"kind": "pca", "dim": 1.0},
        {"kind": "pca", "dim": 0},
        {"kind": "whiten", "method": "zca", "dim": 3},
    ):
        with pytest.raises(SpecError, match="dim"):
            fitted(cancer(), **section)


@pytest.mark.parametrize("method", ["pca", "zca"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_whitened_covariance(method: str, offset: float) -> None:
    """The covariance of whitened rows is the identity.

    To 1e-8 in float64, to 1e-6 in the float32 that is written.
    """
    x = grid(20_000, 24, offset)
    model = fitted(x, kind="whiten", method=method)
    exact = (x.astype(np.float64) - model.mean) @ model.matrix
    assert worst(np.cov(exact.T), np.eye(24)) <= 1e-8
    assert worst(np.cov(model.transform(x).astype(np.float64).T), np.eye(24)) <= 1e-6
    assert worst(model.transform(x), exact) <= 1e-6
    assert worst(exact.mean(axis=0), 0) <= 1e-9
    assert (model.rank, model.deficient) == (24, 0)


def test_whiten_as_scikit_learn() -> None:
    """PCA whitening is scikit-learn's, a few components the first of them.

    ZCA is the whitening nearest to the rows.
    """
    x = cancer()
    wanted = PCA(10, svd_solver="full", whiten=True).fit(x.astype(np.float64))
    model = fitted(x, kind="whiten", dim=10)
    assert worst(model.transform(x), wanted.transform(x.astype(np.float64))) <= 1e-5
    zca = fitted(x, kind="whiten", method="zca").matrix
    assert worst(zca, zca.T) <= 1e-10
    assert (np.linalg.eigvalsh(zca) > 0).all()
    assert worst(zca @ np.cov(x.astype(np.float64).T) @ zca, np.eye(30)) <= 1e-8


def test_whiten_without_full_rank() -> None:
    """Dimensions without variance are left out and reported.

    With an epsilon they are kept, tamed.
    """
    x = digits()[0]
    model = fitted(x, kind="whiten")
    assert model.report() == {"method": "pca", "dim": 61, "rank": 61, "dimensions_without_variance": 3}
    exact = (x.astype(np.float64) - model.mean) @ model.matrix
    assert worst(np.cov(exact.T), np.eye(61)) <= 1e-8
    zca = fitted(x, kind="whiten", method="zca")
    assert zca.transform(x).shape == x.shape
    assert np.abs(zca.transform(x)[:, x.std(axis=0) == 0]).max() <= 1e-6
    tamed = fitted(x, kind="whiten", epsilon=1e-6)
    assert tamed.matrix.shape == (64, 64)
    assert tamed.deficient == 3
    variances = np.linalg.eigvalsh(np.cov(x.astype(np.float64).T))[::-1].clip(0)
    wanted = variances / (variances + 1e-6 * variances[0])
    assert worst(np.cov(((x - tamed.mean) @ tamed.matrix).T), np.diag(wanted)) <= 1e-8
    with pytest.raises(StageError, match="epsilon"):
        fitted(x, kind="whiten", dim=62)
    with pytest.raises(StageError, match="all vectors are equal"):
        fitted(np.ones((9, 3)), kind="whiten")


@pytest.mark.parametrize("components", ["auto", 0, 1, 5])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_all_but_the_top(components: Any, offset: float) -> None:
    """The mean and the top components are gone, and nothing else is."""
    x = digits()[0] + np.float32(offset)
    wide = x.astype(np.float64)
    middle = wide - wide.mean(axis=0)
    top = np.linalg.svd(middle, full_matrices=False)[2][: 1 if components == "auto" else components]
    model = fitted(x, kind="center", components=components)
    wanted = middle - middle @ top.T @ top
    assert worst(model.transform(x), wanted) <= 2e-5
    left = (wanted**2).sum() / (middle**2).sum()
    assert model.report() == {
        "components_removed": len(top),
        "variance_removed": pytest.approx(1 - left, abs=1e-10),
    }


def test_default_of_center() -> None:
    """By default a hundredth of the dimensions is taken off, as the authors advise."""
    assert len(fitted(np.random.default_rng(0).standard_normal((50, 300)), kind="center").components) == 3

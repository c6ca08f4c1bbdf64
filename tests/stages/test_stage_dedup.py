"""Near-duplicates against a brute-force search, clusters against scikit-learn's figures."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse.csgraph import connected_components
from sklearn import metrics

from embed_ops.postprocessing.dedup import bucket_count
from embed_ops.stages import dedup
from embed_ops.stages.dedup import near_duplicates
from embed_ops.stages.kmeans.quality import ClusterQuality, agreement


def copies(rows: int, of: int, seed: int = 0) -> np.ndarray:
    """Draw rows that are noisy copies of a few."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((of, 16))
    return (base[rng.integers(0, of, rows)] + 0.05 * rng.standard_normal((rows, 16))).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 700, 1500])
def test_groups_are_those_of_a_brute_force_search(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows connected by cosines above the threshold are one group; the first is kept."""
    monkeypatch.setattr(dedup, "_ROWS", 100)
    monkeypatch.setattr(dedup, "_COLUMNS", 130)
    x = copies(rows, max(1, rows // 5))
    ids = np.arange(rows) * 3 + 7
    kept, itself = near_duplicates(x, ids, np.zeros(rows), 0.98, "first")
    unit = x.astype(np.float64) / np.linalg.norm(x, axis=1)[:, None]
    labels = connected_components(unit @ unit.T >= 0.98, directed=False)[1]
    expected = np.array([ids[labels == label].min() for label in labels])
    assert (kept == expected).all()
    assert (itself == (ids == expected)).all()
    assert rows < 10 or 1 < len(np.unique(kept)) < rows


def test_which_row_is_kept() -> None:
    """Central keeps the row nearest to the centre, outer the farthest.

    Equal distances are decided by order.
    """
    x = np.repeat(np.eye(2, 4, dtype=np.float32), 3, axis=0)
    distance = np.array([0.3, 0.1, 0.2, 0.5, 0.5, 0.5])
    for keep, rows in (("first", [0, 3]), ("central", [1, 3]), ("outer", [0, 3])):
        kept, _ = near_duplicates(x, np.arange(6), distance, 0.9, keep)  # type: ignore[arg-type]
        assert sorted(set(kept.tolist())) == rows


def test_copies_at_a_threshold_of_one() -> None:
    """Equal rows, rows of another length, and one text's vectors of two batches are duplicates.

    Rows that differ by more are not.
    """
    rng = np.random.default_rng(0)
    base = rng.standard_normal((30, 384)).astype(np.float32)
    noisy = (base * (1 + 2e-7 * rng.standard_normal(base.shape))).astype(np.float32)
    x = np.concatenate([base, base, np.float32(4) * base, noisy, base + np.float32(1e-2)])
    kept, itself = near_duplicates(x, np.arange(150), np.zeros(150), 1.0, "first")
    assert kept.tolist() == [*range(30)] * 4 + [*range(120, 150)]
    assert itself.sum() == 60


def test_thousands_of_near_rows_are_joined_by_a_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one group are not multiplied again: a product for each tile, not for each pair."""
    products = []
    pairs_above = dedup.pairs_above

    def counted(left: np.ndarray, right: np.ndarray, least: float) -> object:
        products.append(1)
        return pairs_above(left, right, least)

    monkeypatch.setattr(dedup, "pairs_above", counted)
    monkeypatch.setattr(dedup, "_ROWS", 100)
    monkeypatch.setattr(dedup, "_COLUMNS", 100)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, 16)) + 1e-3 * rng.standard_normal((2000, 16))).astype(np.float32)
    kept, itself = near_duplicates(x, np.arange(2000), np.zeros(2000), 0.99, "first")
    assert itself.sum() == 1
    assert not kept.any()
    assert len(products) < 2 * 20


def test_zero_vectors_are_no_duplicates() -> None:
    """Rows of zeros have no direction."""
    kept, itself = near_duplicates(np.zeros((3, 4), np.float32), np.arange(3), np.zeros(3), 0.5, "first")
    assert itself.all()
    assert kept.tolist() == [0, 1, 2]


def test_buckets_follow_the_rows() -> None:
    """What a worker holds does not grow with the run."""
    assert bucket_count(1000, 384) == 64
    assert bucket_count(10**9, 384) * 2**27 >= 10**9 * 384 * 4 > (bucket_count(10**9, 384) - 1) * 2**27


def quality(clusters: np.ndarray, labels: np.ndarray | None, k: int, parts: int = 3) -> dict[str, object]:
    """Count in parts and add them up."""
    rng = np.random.default_rng(1)
    first = rng.random(len(clusters))
    second = first + rng.random(len(clusters))
    found = None
    for mine in np.array_split(np.arange(len(clusters)), parts):
        named = None if labels is None else pa.array(labels[mine])
        part = ClusterQuality.of(
            clusters[mine], k, float((first[mine] ** 2).sum()), first[mine], second[mine], named
        )
        found = part if found is None else found + part
    assert found is not None
    report = found.report()
    assert report["inertia"] == pytest.approx((first**2).sum())
    assert (
        report["simplified_silhouette"] == pytest.approx(((second - first) / second).mean())
        if k > 1
        else True
    )
    return report


def test_agreement_is_that_of_scikit_learn() -> None:
    """ARI, NMI, homogeneity, completeness and V-measure equal scikit-learn's, counted in parts."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 500)
    clusters = np.where(rng.random(500) < 0.7, labels, rng.integers(0, 9, 500))
    found = quality(clusters, np.array([f"label {label}" for label in labels]), 10)
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(labels, clusters)
    expected = {
        "ari": metrics.adjusted_rand_score(labels, clusters),
        "nmi": metrics.normalized_mutual_info_score(labels, clusters),
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v_measure": v_measure,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found["labelled_rows"] == 500
    assert found["empty_clusters"] == 1
    assert found["imbalance"] == pytest.approx(10 * ((np.bincount(clusters, minlength=10) / 500) ** 2).sum())


@pytest.mark.parametrize("clusters", [np.zeros(20, int), np.arange(20)])
@pytest.mark.parametrize("labels", [np.zeros(20, int), np.arange(20)])
def test_agreement_at_the_edges(clusters: np.ndarray, labels: np.ndarray) -> None:
    """One cluster, one label, or as many as there are rows: what scikit-learn says."""
    found = quality(clusters, labels, 20)
    assert found["ari"] == pytest.approx(metrics.adjusted_rand_score(labels, clusters))
    assert found["v_measure"] == pytest.approx(metrics.v_measure_score(labels, clusters))


def test_rows_without_a_label_are_left_out() -> None:
    """Nulls do not count as a label; with no label at all there is nothing to say."""
    pairs = pa.table(
        {
            "cluster": pa.array([0, 1], pa.int64()),
            "label": pa.array(["a", "b"]),
            "rows": pa.array([3, 4], pa.int64()),
        }
    )
    assert agreement(pairs)["ari"] == pytest.approx(1.0)
    part = ClusterQuality.of(np.array([0, 0, 1]), 2, 0.0, np.zeros(3), np.ones(3), pa.array(["a", None, "b"]))
    assert part.report()["labelled_rows"] == 2
    nothing = ClusterQuality.of(
        np.array([0, 1]), 2, 0.0, np.zeros(2), np.ones(2), pa.array([None, None], pa.string())
    )
    assert nothing.report()["labelled_rows"] == 0

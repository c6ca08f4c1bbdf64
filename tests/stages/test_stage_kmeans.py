"""k-means step by step: scikit-learn's update, k-means||'s start, and no input breaks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import MiniBatchKMeans
from stage_data import Array, blobs, cancer, digits, fitted, same_bits

from embed_ops.errors import SpecError, StageError
from embed_ops.spec.spec import parse_stage
from embed_ops.stages import rounds
from embed_ops.stages.base import Block
from embed_ops.stages.kmeans.nearest import nearest, nearest_centers, squared_distances
from embed_ops.stages.kmeans.seeding import LEAST_DRAWN, OVERSAMPLING, ROUNDS, nearest_in_cells, shared_out
from embed_ops.stages.kmeans.stage import KMeansStage
from embed_ops.stages.kmeans.state import State


class Watched(KMeansStage):
    """A stage that keeps every state it was in."""

    def __init__(self, **section: Any) -> None:
        super().__init__(parse_stage({"kind": "kmeans", **section}))  # type: ignore[arg-type]
        self.states: list[State] = []

    def update(self, state: State, summary: Any) -> State:
        """Keep the new state."""
        self.states.append(super().update(state, summary))
        return self.states[-1]


def watched(x: Array, seed: int = 0, **section: Any) -> tuple[Any, list[State]]:
    """Fit, and give the model and all states."""
    stage = Watched(**section)
    return rounds.fit(stage, x, seed), stage.states


def inertia(x: Array, centers: Array) -> float:
    """Sum the squared distances to the nearest centre, by brute force."""
    return float(cdist(x.astype(np.float64), centers, "sqeuclidean").min(axis=1).sum())


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_step_is_partial_fit(offset: float) -> None:
    """Twenty steps in float64 from equal centres are those of scikit-learn, to 1e-12."""
    x = digits()[0].astype(np.float64) / 16 + offset
    k, batch = 10, 256
    start = x[::170][:k].copy()
    peer = MiniBatchKMeans(k, init=start, n_init=1, batch_size=batch, reassignment_ratio=0.0)
    stage = KMeansStage(parse_stage({"kind": "kmeans", "k": k, "patience": 1000}))  # type: ignore[arg-type]
    sizes = np.full(64, len(x) // 64)
    state = State("step", len(x), 64, 0, sizes=sizes, scale=1.0, centers=start, counts=np.zeros(k))
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = rng.choice(len(x), batch, replace=False)
        peer.partial_fit(x[ids])
        # Reassignment of low clusters is another thing: it is off in both.
        found = stage.summarize(Block(x[ids], ids), state)
        state = stage.update(state, found)
        assert state.spares == 0
        assert np.abs(state.centers - peer.cluster_centers_).max() <= 1e-12 * max(1.0, offset)
        assert np.array_equal(state.counts, peer._counts)
        assert np.array_equal(nearest(x, state.centers), peer.predict(x))


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nearest_is_brute_force(offset: float, kind: Any) -> None:
    """The two nearest centres are those of brute force, also far from the origin."""
    rng = np.random.default_rng(0)
    x = (np.round(rng.standard_normal((1500, 20)) * 64) / 64 + offset).astype(kind)
    centers = np.round(rng.standard_normal((2100, 20)) * 64) / 64 + offset
    found = nearest_centers(x, centers, 2)
    wanted = cdist(x.astype(np.float64), centers, "sqeuclidean")
    near = np.sort(wanted, axis=1)
    rows = np.arange(len(x))
    # Labels may differ only where rounding can't tell two centres apart.
    assert (wanted[rows, found[:, 0]] - near[:, 0]).max() <= 1e-4
    assert (wanted[rows, found[:, 1]] - near[:, 1]).max() <= 1e-4
    assert (found[:, 0] == wanted.argmin(axis=1)).mean() > 0.999
    assert np.array_equal(nearest(x, centers), found[:, 0])
    apart = squared_distances(x, centers.astype(kind), found[:, 0])
    assert np.abs(apart - near[:, 0]).max() <= 1e-3


def test_ties_go_to_the_lowest_index() -> None:
    """Of equal centres the first wins and the next comes second, within a tile and across tiles.

    One centre has no second.
    """
    rng = np.random.default_rng(0)
    few = rng.integers(-3, 4, (7, 5)).astype(np.float64)
    centers = np.tile(few, (400, 1))
    x = np.repeat(few, 100, axis=0).astype(np.float32)
    found = nearest_centers(x, centers, 2)
    firsts = np.array([np.flatnonzero((few == row).all(axis=1))[0] for row in x])
    assert np.array_equal(found[:, 0], firsts)
    assert (found[:, 1] > found[:, 0]).all()
    assert (squared_distances(x, centers, found[:, 1]) == 0).all()
    alone = nearest_centers(x, few[:1], 2)
    assert (alone[:, 0] == 0).all()
    assert (alone[:, 1] == -1).all()


def test_wide_rows_do_not_depend_on_neighbours() -> None:
    """The distance of a row has the same bits alone as among others, however wide."""
    x = np.random.default_rng(0).standard_normal((70, 9001)).astype(np.float32)
    labels = np.zeros(len(x), np.int64)
    whole = squared_distances(x, x[:1], labels)
    assert all(
        same_bits(squared_distances(x[row : row + 1], x[:1], labels[:1]), whole[row : row + 1])
        for row in range(len(x))
    )


@pytest.mark.parametrize("k", [10, 400])
def test_candidates_of_seeding(k: int) -> None:
    """k-means|| draws about as many candidates as it is to, all of them rows, none twice."""
    x, _ = blobs(12_000, 8, 40)
    drawn = []
    for seed in range(5):
        states = watched(x, seed, k=k, max_epochs=1, polish=0)[1]
        state = next(state for state in states if state.phase == "weigh")
        assert state.ids is not None
        assert state.candidates is not None
        assert len(np.unique(state.ids)) == len(state.ids)
        assert same_bits(state.candidates, x[state.ids])
        drawn.append(len(state.ids) - 1)
    assert np.mean(drawn) == pytest.approx(ROUNDS * max(LEAST_DRAWN, OVERSAMPLING * k), rel=0.12)


@pytest.mark.parametrize(("data", "k"), [("digits", 10), ("digits", 50), ("cancer", 5), ("blobs", 30)])
def test_cost_after_seeding(data: str, k: int) -> None:
    """Where k-means begins, the inertia is at most 1.2 times what it is in the end."""
    x = {"digits": digits()[0], "cancer": cancer(), "blobs": blobs()[0]}[data]
    for seed in range(3):
        model, states = watched(x, seed, k=k)
        begin = next(state.centers for state in states if state.phase == "step")
        assert begin is not None
        assert inertia(x, begin) <= 1.2 * inertia(x, model.centers)


def test_model_and_columns() -> None:
    """Cluster, distance and second distance are those of brute force to the centres."""
    x, _ = digits()
    model = fitted(x, kind="kmeans", k=10)
    apart = np.sqrt(cdist(x.astype(np.float64), model.centers, "sqeuclidean"))
    found = model.columns(x, "unused")
    assert {name: values.dtype.name for name, values in found.items()} == {
        "cluster": "int32",
        "distance": "float32",
        "second_distance": "float32",
    }
    assert np.array_equal(found["cluster"], apart.argmin(axis=1))
    assert np.array_equal(model.transform(x), found["cluster"])
    near = np.sort(apart, axis=1)
    assert np.abs(found["distance"] - near[:, 0]).max() <= 1e-4
    assert np.abs(found["second_distance"] - near[:, 1]).max() <= 1e-4
    report = model.report()
    assert report["k"] == 10
    assert report["sample_rows"] == len(x)
    assert report["sample_inertia_per_row"] * len(x) == pytest.approx(inertia(x, model.centers), rel=0.02)


def test_one_cluster() -> None:
    """One cluster is the mean, and the second distance is infinite."""
    x = cancer()
    model = fitted(x, kind="kmeans", k=1)
    assert np.abs(model.centers[0] - x.mean(axis=0, dtype=np.float64)).max() <= 1e-6
    columns = model.columns(x, "")
    assert not columns["cluster"].any()
    assert np.isinf(columns["second_distance"]).all()


@pytest.mark.parametrize("init", ["auto", "random", "two-level"])
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_a_cluster_for_each_row(rows: int, init: str) -> None:
    """As many clusters as rows: every row is its own."""
    x = np.random.default_rng(0).standard_normal((rows, 6)).astype(np.float32)
    model = fitted(x, kind="kmeans", k=rows, init=init)
    assert sorted(model.transform(x)) == list(range(rows))
    assert model.columns(x, "")["distance"].max() <= 1e-6


@pytest.mark.parametrize("init", ["auto", "random", "two-level"])
def test_fewer_distinct_rows_than_clusters(init: str) -> None:
    """Duplicates that leave clusters without rows give finite centres."""
    distinct = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32) * 10
    x = np.tile(distinct, (200, 1))
    for seed in range(3):
        model = fitted(x, seed, kind="kmeans", k=9, init=init, polish=4)
        assert np.isfinite(model.centers).all()
        assert model.inertia <= 1e-3
        labels = model.transform(x)
        assert len(np.unique(labels)) == 5
        assert np.array_equal(labels, np.tile(labels[:5], 200))


@pytest.mark.parametrize("value", [0.0, 3.5, 1e4])
@pytest.mark.parametrize("spherical", [False, True])
def test_constant_data(value: float, spherical: bool) -> None:
    """Rows that are all equal, zeros too, are no distance away from their cluster."""
    x = np.full((300, 5), value, np.float32)
    model = fitted(x, kind="kmeans", k=3, spherical=spherical)
    assert np.isfinite(model.centers).all()
    assert model.columns(x, "")["distance"].max() <= 1e-3 * max(1.0, value)


def test_spherical() -> None:
    """By angle: centres have length 1, lengths of rows do not matter, distances are 1 - cosine."""
    x, _ = digits()
    model = fitted(x, kind="kmeans", k=10, spherical=True)
    assert np.abs(np.linalg.norm(model.centers, axis=1) - 1).max() <= 1e-12
    scaled = x * np.exp2(np.random.default_rng(0).integers(-4, 5, len(x)))[:, None].astype(np.float32)
    assert same_bits(fitted(scaled, kind="kmeans", k=10, spherical=True).centers, model.centers)
    cosine = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] @ model.centers.T
    found = model.columns(scaled, "")
    assert np.array_equal(found["cluster"], cosine.argmax(axis=1))
    assert np.abs(found["distance"] - (1 - cosine.max(axis=1))).max() <= 1e-6
    assert np.abs(found["second_distance"] - (1 - np.sort(cosine, axis=1)[:, -2])).max() <= 1e-6


def test_stops() -> None:
    """It stops after epochs, steps without a better inertia, or still centres; polish counts."""
    x, _ = blobs(6400, 8, 20)
    common = {"k": 20, "batch_rows": 640, "polish": 0}
    assert watched(x, max_epochs=1, patience=1000, **common)[0].steps == 10
    assert watched(x, max_epochs=3, patience=1000, **common)[0].steps == 30
    patient = [watched(x, patience=patience, **common)[0].steps for patience in (1, 5, 30)]
    assert patient == sorted(set(patient))
    assert watched(x, tol=1e6, patience=1000, **common)[0].steps == 2
    phases = [state.phase for state in watched(x, k=20, polish=3)[1]]
    assert phases.count("polish") == 3
    assert phases[-1] == "done"
    polished, plain = (fitted(x, kind="kmeans", k=20, polish=polish) for polish in (3, 0))
    assert inertia(x, polished.centers) <= inertia(x, plain.centers)


def test_sample() -> None:
    """About as many rows as asked for are fitted on, and each step reads a batch of them."""
    x, _ = blobs(20_000, 8, 20)
    model, states = watched(x, k=20, sample_rows=4000, batch_rows=512)
    assert model.sample_rows == pytest.approx(4000, rel=0.05)
    assert states[0].sizes is not None
    assert states[0].sizes.sum() == model.sample_rows
    assert inertia(x, model.centers) <= 1.1 * inertia(x, fitted(x, kind="kmeans", k=20).centers)


BAD = [
    ({"k": 21}, "k = 21, but the run has 20 rows; give k = 20 or less"),
    ({"k": 8, "sample_rows": 7}, "sample_rows = 7 is less than k = 8"),
]


@pytest.mark.parametrize(("section", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_input(section: dict[str, Any], sentence: str) -> None:
    """More clusters than rows, of the run or of the sample, are refused before anything is read."""
    with pytest.raises(StageError, match=sentence):
        fitted(cancer()[:20], kind="kmeans", **section)


def test_bad_sections() -> None:
    """No clusters, an unknown start and negative patience are no sections."""
    for section in ({"k": 0}, {"k": 2, "init": "best"}, {"k": 2, "patience": 0}, {"k": 2, "tol": -1.0}):
        with pytest.raises(SpecError, match=list(section)[-1]):
            fitted(cancer(), kind="kmeans", **section)


def test_sample_that_falls_short() -> None:
    """A sample that by chance has fewer rows than clusters is refused in a sentence."""
    x = np.random.default_rng(0).standard_normal((4000, 3)).astype(np.float32)
    said = set()
    for seed in range(20):
        try:
            fitted(x, seed, kind="kmeans", k=40, sample_rows=40)
        except StageError as error:
            said.add(str(error).rpartition("; ")[2])
    assert said == {"give a larger sample_rows"}


def test_cells() -> None:
    """Clusters are shared among cells by rows; candidates are searched in a row's own cell."""
    given = shared_out(10, np.array([100, 1, 0, 50]), np.array([20, 3, 2, 2]))
    assert given.tolist() == [7, 1, 0, 2]
    assert shared_out(3, np.array([5, 5, 5]), np.array([1, 1, 1])).tolist() == [1, 1, 1]
    x, _ = digits()
    coarse, cells = x[:3], np.array([0, 0, 1, 2, 2])
    candidates = x[[0, 50, 1, 2, 60]]
    found = nearest_in_cells(x, coarse, candidates, cells)
    assert np.array_equal(cells[found], nearest(x, coarse))
    mine = np.flatnonzero(cells[found] == 0)
    assert np.array_equal(found[mine], nearest(x[mine], candidates[:2]))


@pytest.mark.parametrize("init", ["k-means||", "two-level"])
def test_what_a_fit_says_of_itself(init: str) -> None:
    """It has words for a person in every phase, and no distance before there is one."""
    stage = Watched(k=5, init=init)
    rounds.fit(stage, digits()[0], 0)
    said = [stage.progress(state) for state in stage.states]
    assert not any(word in line for line in said for word in ("nan", "reserve", "polish", "step "))
    assert said[-1] == "fitted"
    assert any("mini-batch 2, mean squared distance to the centre " in line for line in said)

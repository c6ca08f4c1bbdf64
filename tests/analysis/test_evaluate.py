"""Judging an embedding: probe, neighbours and figures against scikit-learn on the same split.

What can't be judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_run import make_run
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

from embed_ops.analysis.evaluate import evaluate, fit_probe, sample, save, split
from embed_ops.analysis.scores import cosines_of, of_pairs, scores, vote
from embed_ops.errors import StageError
from embed_ops.runs.models import read_probe
from embed_ops.runs.rows import RunRows
from embed_ops.storage.location import locate

DIGITS = load_digits()
X, Y = (DIGITS.data / 16).astype(np.float32), DIGITS.target


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRows:
    """Make a run of the digits' pixels with labels: one stands alone, some are missing."""
    path = tmp_path_factory.mktemp("digits") / "run"

    def keep(first: int, end: int) -> dict[str, pa.Array]:
        labels: list[Any] = [None if row % 97 == 5 else str(Y[row]) for row in range(first, end)]
        return {
            "digit": pa.array(labels),
            "number": pa.array(Y[first:end]),
            "one": pa.array(["same"] * (end - first)),
            "alone": pa.array([f"row {row}" for row in range(first, end)]),
            "odd": pa.array((Y[first:end] % 2).astype(bool)),
        }

    make_run(str(path), [1000, 797], lambda first, end: X[first:end], unit_rows=300, keep=keep)
    return RunRows(locate(str(path)))


def test_probe_and_neighbours_are_those_of_scikit_learn(run: RunRows) -> None:
    """On the same split probe and neighbours score as a pipeline of scikit-learn does."""
    vectors = run.vector(None)
    data = sample(run, vectors, run.label("digit"), 50_000, 0)
    assert data.unlabelled == sum(row % 97 == 5 for row in range(1797))
    np.testing.assert_array_equal(data.x, X[data.ids])
    assert data.labels.tolist() == [str(Y[row]) for row in data.ids.tolist()]
    train, test = ~data.test, data.test
    assert 0.19 < test.mean() < 0.21
    mean, scale = X[data.ids][train].mean(0), X[data.ids][train].std(0)
    scale[scale == 0] = 1
    theirs = LogisticRegression(max_iter=1000).fit(
        (data.x[train] - mean) / scale, data.labels[train].astype(str)
    )
    probe = fit_probe(data, "digit")
    expected = theirs.predict_proba((data.x[test] - mean) / scale)
    np.testing.assert_allclose(probe.probabilities(data.x[test]), expected, atol=2e-3)
    assert (probe.transform(data.x[test]) == theirs.predict((data.x[test] - mean) / scale)).mean() > 0.995
    mine = vote(data.x, data.labels, test, 1)
    knn = KNeighborsClassifier(1, metric="cosine").fit(data.x[train], data.labels[train].astype(str))
    assert (mine == knn.predict(data.x[test])).mean() > 0.997
    found, figures = evaluate(run, vectors, "digit")
    assert figures["knn_10"]["accuracy"] > 0.97
    assert figures["linear_probe"]["accuracy"] > 0.95 > figures["majority"]["accuracy"]
    low, high = figures["linear_probe"]["accuracy_95"]
    assert low <= figures["linear_probe"]["accuracy"] <= high
    assert found.rows == int(train.sum())
    assert figures["clustering"]["kmeans_nmi"] > 0.5


def test_the_split_is_stratified_and_stays(run: RunRows) -> None:
    """Every class is on both sides.

    A row keeps its side whatever other rows there are of other classes.
    """
    codes, ids = np.array([0] * 50 + [1] * 2 + [2] * 7), np.arange(59)
    side = split(codes, ids, 3)
    assert [int(side[codes == code].sum()) for code in range(3)] == [10, 1, 1]
    np.testing.assert_array_equal(split(codes[codes != 1], ids[codes != 1], 3), side[codes != 1])
    few = sample(run, run.vector(None), run.label("number"), 300, 0)
    assert 200 < len(few.ids) < 400
    again = sample(run, run.vector(None), run.label("number"), 300, 0)
    np.testing.assert_array_equal(few.ids, again.ids)
    np.testing.assert_array_equal(few.test, again.test)


def test_two_classes_and_all_rows(run: RunRows, tmp_path: Path) -> None:
    """Booleans are labels; a probe over all rows by mini-batches is nearly as good.

    Both are saved, and load in plain Python.
    """
    vectors = run.vector(None)
    for whole in (False, True):
        probe, figures = evaluate(run, vectors, "odd", whole=whole)
        assert probe.classes == ("false", "true")
        assert figures["linear_probe"]["accuracy"] > 0.85
        save(str(tmp_path / f"{whole}"), probe, figures)
        loaded = read_probe(str(tmp_path / f"{whole}"))
        np.testing.assert_array_equal(loaded.probabilities(X[:9]), probe.probabilities(X[:9]))
        np.testing.assert_allclose(probe.probabilities(X[:9]).sum(axis=1), 1, atol=1e-6)
    assert probe.rows == 1797 - figures["rows"]["test"]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("one", "has only 'same'"),
        ("alone", "of which 0 have two rows or more"),
        ("none", "no column 'none'"),
        ("embedding", "labels no rows"),
    ],
)
def test_what_can_not_be_judged(run: RunRows, column: str, says: str) -> None:
    """Each is one sentence."""
    with pytest.raises(StageError, match=says):
        evaluate(run, run.vector(None), column)


def test_figures_are_those_of_scikit_learn() -> None:
    """Accuracy, macro F1, the confusion matrix and rank correlation."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 5, 400).astype(str).astype(object)
    guess = np.where(draw.random(400) < 0.7, truth, "7").astype(object)
    found = scores(truth, guess, 0)
    assert found["accuracy"] == accuracy_score(truth.astype(str), guess.astype(str))
    assert found["macro_f1"] == pytest.approx(
        f1_score(truth.astype(str), guess.astype(str), average="macro", labels=list("01234"))
    )
    left = draw.normal(size=(50, 8)).astype(np.float32)
    near = np.linspace(0, 1, 50)[:, None]
    right = (near * left + (1 - near) * draw.normal(size=(50, 8))).astype(np.float32)
    assert of_pairs(left, right, near.ravel())["spearman"] > 0.8
    np.testing.assert_allclose(cosines_of(left, -2 * left), -1)
    np.testing.assert_array_equal(cosines_of(left, np.zeros_like(left)), 0)

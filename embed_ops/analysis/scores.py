"""Figures of how good vectors and predictions are.

Accuracy and F1 with intervals, nearest neighbours, clusters, pairs. Pure.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.tiles import BLOCK_ROWS, unit_length
from embed_ops.numerics.topk import Floats, Ints, TopK, Vectors

Texts = npt.NDArray[np.object_]
_BOOTSTRAPS = 1_000
_SILHOUETTE_ROWS = 5_000
_CONFUSIONS = 20


def vote(x: Vectors, labels: Texts, test: npt.NDArray[np.bool_], k: int) -> Texts:
    """Give each test row the label that most of its k nearest training rows have, by cosine.

    Of equals the nearest's: (test rows,).
    """
    best = TopK(x[test], min(k, int((~test).sum())), "cosine")
    train = np.flatnonzero(~test)
    for first in range(0, len(train), BLOCK_ROWS):
        part = train[first : first + BLOCK_ROWS]
        best.add(x[part], part)
    names, codes = np.unique(labels, return_inverse=True)
    chosen = []
    for ids in best.result()[0]:
        near = codes[ids[ids >= 0]]
        counts = np.bincount(near, minlength=len(names))
        chosen.append(names[next((code for code in near if counts[code] == counts.max()), 0)])
    return np.array(chosen, object)


def scores(truth: Texts, predicted: Texts, seed: int) -> dict[str, Any]:
    """Give accuracy and macro F1, each with a 95 % interval."""
    from sklearn.metrics import f1_score

    names, codes = np.unique(np.concatenate([truth, predicted]).astype(str), return_inverse=True)
    left, right = codes[: len(truth)], codes[len(truth) :]
    draw = np.random.default_rng(seed)
    accuracies, f1s = [], []
    for _ in range(_BOOTSTRAPS):
        chosen = draw.integers(0, len(truth), len(truth))
        accuracies.append(float((left[chosen] == right[chosen]).mean()))
        f1s.append(_macro_f1(left[chosen], right[chosen], len(names)))
    return {
        "accuracy": float((left == right).mean()),
        "accuracy_95": [float(value) for value in np.percentile(accuracies, [2.5, 97.5])],
        "macro_f1": float(f1_score(left, right, average="macro", labels=np.unique(left), zero_division=0)),
        "macro_f1_95": [float(value) for value in np.percentile(f1s, [2.5, 97.5])],
    }


def _macro_f1(truth: Ints, predicted: Ints, classes: int) -> float:
    """Average the F1 of the classes that there are, as scikit-learn does, without its checks.

    It is called a thousand times.
    """
    hits = np.bincount(truth[truth == predicted], minlength=classes)
    both = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    there = np.bincount(truth, minlength=classes) > 0
    return float((2 * hits[there] / np.maximum(1, both[there])).mean())


def clustering(x: Vectors, given: Texts, seed: int) -> dict[str, Any]:
    """Tell how far labels are clusters.

    Silhouette of the labels (cosine), and NMI and ARI of k-means with as many clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    some = np.random.default_rng(seed).permutation(len(x))[:_SILHOUETTE_ROWS]
    labels, count = given[some].astype(str), len(np.unique(given[some]))
    if not 2 <= count < len(some):
        return {}
    unit = unit_length(x[some])
    clusters = KMeans(count, n_init=3, random_state=seed).fit_predict(unit)
    return {
        "silhouette_of_labels": float(silhouette_score(unit, labels, metric="cosine")),
        "kmeans_nmi": float(normalized_mutual_info_score(labels, clusters)),
        "kmeans_ari": float(adjusted_rand_score(labels, clusters)),
    }


def confusions(truth: Texts, predicted: Texts, ids: Ints) -> list[dict[str, Any]]:
    """List the most frequent mistakes: which label was taken for which, how often, and a row of it.

    `ids`: (rows,) indexes of the rows.
    """
    wrong: dict[tuple[str, str], list[int]] = {}
    for left, right, row in zip(truth.tolist(), predicted.tolist(), ids.tolist(), strict=True):
        if left != right:
            wrong.setdefault((str(left), str(right)), []).append(row)
    listed = sorted(wrong.items(), key=lambda item: (-len(item[1]), item[0]))[:_CONFUSIONS]
    return [
        {"label": left, "taken_for": right, "rows": len(rows), "for_example": min(rows)}
        for (left, right), rows in listed
    ]


def cosines_of(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> Floats:
    """Give the cosine of each row of (rows, dim) with the same row of another: (rows,) float64.

    0 where a row is zeros.
    """
    one, two = left.astype(np.float64), right.astype(np.float64)
    lengths = np.sqrt(np.vecdot(one, one)) * np.sqrt(np.vecdot(two, two))
    cosines: Floats = np.vecdot(one, two) / np.where(lengths > 0, lengths, 1.0)
    return cosines


def of_pairs(left: Vectors, right: Vectors, scored: npt.NDArray[Any]) -> Mapping[str, Any]:
    """Compare cosines of pairs with scores that people gave: Spearman's rank correlation."""
    from scipy.stats import ConstantInputWarning, spearmanr

    with warnings.catch_warnings():
        # Where one side has a single value there is no correlation: NaN says it.
        warnings.simplefilter("ignore", ConstantInputWarning)
        correlation = spearmanr(cosines_of(left, right), scored)
    return {
        "pairs": len(scored),
        "spearman": float(correlation.statistic),
        "p_value": float(correlation.pvalue),
    }

"""Is an embedding good for a task? A label tells, on a sample of rows chosen by hash.

A linear probe, nearest neighbours and clusters are held against it.
Rows are split by a hash of their index, each label by itself (stratified), so that a row is always
on the same side. Intervals are those of a percentile bootstrap over the rows of the test side
(Efron 1979).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.analysis.scores import Texts, clustering, confusions, scores, vote
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.errors import StageError
from embed_ops.numerics.hashing import splitmix64
from embed_ops.numerics.tiles import BLOCK_ROWS
from embed_ops.numerics.topk import Floats, Ints, Vectors
from embed_ops.runs.columns import Label, VectorColumn, labels_of, read_unit
from embed_ops.runs.digests import DIGESTS_JSON, MODEL, digests_of, listed, publish_digests
from embed_ops.runs.heartbeat import new_attempt
from embed_ops.runs.models import write_model
from embed_ops.runs.rows import RunRows
from embed_ops.runs.sample import choose
from embed_ops.runs.space import EVALUATION_JSON, SPACE, space_of
from embed_ops.stages.classify import LinearProbe
from embed_ops.storage.files import publish, remove
from embed_ops.storage.location import locate

SAMPLE_ROWS = 50_000
TEST_SHARE = 0.2
_UNITS = 256
"""Units that a sample is taken from, at most: those with the least hash."""
_K = 10
_SPLIT = 102
"""Tag of the hash by which rows are put to a side."""


@dataclass(frozen=True)
class Labelled:
    """Rows with a label.

    Attributes:
        x: (rows, dim); `labels`: (rows,) text; `ids`: (rows,) global indexes.
        test: (rows,) which side of the split each is on.
        unlabelled: rows of the sample without a label; `single`: rows whose label no other row has.
    """

    x: Vectors
    labels: Texts
    ids: Ints
    test: npt.NDArray[np.bool_]
    unlabelled: int
    single: int


def sample(rows: RunRows, vectors: VectorColumn, label: Label, most: int, seed: int) -> Labelled:
    """Take labelled rows of a run, by hash: from all units, or from the 256 of the least hash.

    Raises:
        StageError: fewer than two labels have two rows or more.
    """
    parts: list[tuple[Vectors, Texts, Ints]] = []
    unlabelled = 0
    for chosen in choose(rows, most, seed, _UNITS):
        record = chosen.record
        labels = _texts(labels_of(label, record.unit, record.rows))[chosen.places]
        there = np.array([text is not None for text in labels], bool)
        unlabelled += int((~there).sum())
        if there.any():
            kept = chosen.places[there]
            parts.append(
                (
                    read_unit(vectors, record.unit, record.rows)[kept],
                    labels[there],
                    rows.starts[chosen.number] + kept,
                )
            )
    if not parts:
        raise StageError(
            f"{rows.root.path}: no row of the sample has a label in {label.column!r}; name another column"
        )
    x, labels, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    fine = counts[codes] >= 2
    if len(np.unique(codes[fine])) < 2:
        there_are = (
            f"only {names[0]!r}"
            if len(names) == 1
            else f"{len(names)} labels, of which {int((counts >= 2).sum())} have two rows or more"
        )
        raise StageError(
            f"{rows.root.path}: column {label.column!r} has {there_are} in {len(labels):,} rows; a probe "
            "needs two classes"
        )
    x, labels, ids, codes = x[fine], labels[fine], ids[fine], codes[fine]
    return Labelled(x, labels, ids, split(codes, ids, seed), unlabelled, int((~fine).sum()))


def split(codes: Ints, ids: Ints, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a fifth of each class for the test side: (rows,) bool.

    Those of the least hash, at least one and not all.
    """
    order = np.lexsort((splitmix64(seed, _SPLIT, ids), codes))
    counts = np.bincount(codes)
    rank = np.empty(len(codes), np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    rank[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    wanted = np.clip(np.round(counts * TEST_SHARE), 1, np.maximum(1, counts - 1))
    test: npt.NDArray[np.bool_] = rank < wanted[codes]
    return test


def _texts(labels: pa.Array) -> Texts:
    """Give the labels of a unit as text: (rows,)."""
    return np.array(pc.cast(labels, pa.string()).to_pylist(), object)


def fit_probe(drawn: Labelled, label: str) -> LinearProbe:
    """Fit multinomial logistic regression on the training side, over standardised vectors.

    By scikit-learn: lbfgs, C = 1.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = _standard(drawn)
    train = ~drawn.test
    model = LogisticRegression(max_iter=1000).fit(
        (drawn.x[train] - mean) / scale, drawn.labels[train].astype(str)
    )
    return _probe(model, mean, scale, int(train.sum()), label)


def fit_probe_on_all(
    rows: RunRows, vectors: VectorColumn, label: Label, drawn: Labelled, seed: int, reporter: Reporter
) -> LinearProbe:
    """Fit the probe by mini-batches over all rows but those of the test side, three times.

    By scikit-learn's SGDClassifier, averaged.
    """
    from sklearn.linear_model import SGDClassifier

    mean, scale = _standard(drawn)
    classes = np.unique(drawn.labels).astype(str)
    model = SGDClassifier(loss="log_loss", alpha=1e-5, average=True, random_state=seed)
    taken, seen = set(drawn.ids[drawn.test].tolist()), 0
    for epoch in range(3):
        for x, labels, ids in _stream(rows, vectors, label):
            fine = np.array(
                [
                    name in classes and index not in taken
                    for name, index in zip(labels, ids.tolist(), strict=True)
                ],
                bool,
            )
            if fine.any():
                model.partial_fit((x[fine] - mean) / scale, labels[fine].astype(str), classes=classes)
                seen += int(fine.sum()) if epoch == 0 else 0
        reporter.say(f"probe: pass {epoch + 1} of 3 over {rows.rows:,} rows")
    return _probe(model, mean, scale, seen, label.column)


def _standard(drawn: Labelled) -> tuple[Floats, Floats]:
    """Give mean and spread of the training side, (dim,) each; 1 where there is none."""
    train = drawn.x[~drawn.test].astype(np.float64)
    scale = train.std(axis=0)
    return train.mean(axis=0), np.where(scale > 0, scale, 1.0)


def _probe(model: Any, mean: Floats, scale: Floats, rows: int, label: str) -> LinearProbe:
    """Make a probe of scikit-learn's linear model."""
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # One line of weights tells two classes apart; a probe has one for each.
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearProbe(tuple(str(name) for name in model.classes_), mean, scale, weights, bias, rows, label)


def _stream(rows: RunRows, vectors: VectorColumn, label: Label) -> Iterator[tuple[Vectors, Texts, Ints]]:
    for number, record in enumerate(rows.records):
        x = read_unit(vectors, record.unit, record.rows)
        labels = _texts(labels_of(label, record.unit, record.rows))
        ids = np.arange(rows.starts[number], rows.starts[number + 1], dtype=np.int64)
        for first in range(0, len(x), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            yield x[part], labels[part], ids[part]


def evaluate(
    rows: RunRows,
    vectors: VectorColumn,
    column: str,
    *,
    most: int = SAMPLE_ROWS,
    whole: bool = False,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> tuple[LinearProbe, dict[str, Any]]:
    """Judge the vectors of a run by a label: the probe, and the figures, all JSON values.

    Args:
        rows: of the run.
        vectors: its column.
        column: kept column, or `key=value` folder of the source, with the labels.
        most: rows of the sample.
        whole: fit the probe on all rows, by mini-batches.
        seed: of sample, split, bootstrap and k-means.
        reporter: told what is done.

    Raises:
        StageError: there is no such column, or it has fewer than two classes.
    """
    reporter = reporter or Silent()
    label = rows.label(column)
    drawn = sample(rows, vectors, label, most, seed)
    reporter.say(
        f"{len(drawn.x):,} rows with {len(np.unique(drawn.labels)):,} labels; fitting a linear probe"
    )
    probe = (
        fit_probe_on_all(rows, vectors, label, drawn, seed, reporter) if whole else fit_probe(drawn, column)
    )
    train, test = int((~drawn.test).sum()), int(drawn.test.sum())
    reporter.say(f"looking for the {_K} nearest of {train:,} rows to each of {test:,}")
    space = space_of(vectors, rows.header_of(vectors.run))
    return probe, {**_figures(drawn, probe, column, seed), SPACE: space}


def _figures(drawn: Labelled, probe: LinearProbe, column: str, seed: int) -> dict[str, Any]:
    """Judge probe, neighbours and clusters by the rows of the test side."""
    truth = drawn.labels[drawn.test]
    predicted = probe.transform(drawn.x[drawn.test])
    names, counts = np.unique(drawn.labels[~drawn.test].astype(str), return_counts=True)
    majority = names[counts.argmax()]
    return {
        "label": column,
        "classes": len(names),
        "rows": {
            "train": probe.rows,
            "test": len(truth),
            "without_label": drawn.unlabelled,
            "alone_in_their_class": drawn.single,
        },
        "majority": {"label": str(majority), "accuracy": float((truth == majority).mean())},
        "linear_probe": scores(truth, predicted, seed),
        f"knn_{_K}": scores(truth, vote(drawn.x, drawn.labels, drawn.test, _K), seed),
        "clustering": clustering(drawn.x, drawn.labels, seed),
        "confusions": confusions(truth, predicted, drawn.ids[drawn.test]),
        "seed": seed,
    }


def save(place: str, probe: LinearProbe, figures: dict[str, Any]) -> None:
    """Write a probe, and beside it `evaluation.json`.

    Raises:
        StorageError: it can't be written.
    """
    here, attempt = locate(place), new_attempt()
    # Before the model: a checksum of another one would refuse it.
    remove(here.child(DIGESTS_JSON))
    write_model(here, probe, attempt)
    publish(here, EVALUATION_JSON, json.dumps(figures, indent=2).encode(), attempt)
    publish_digests(here, attempt, digests_of(here, [EVALUATION_JSON, *listed(here, [MODEL])]))

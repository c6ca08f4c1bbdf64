"""Items to users, against brute force; judged beside popularity; what can't be recommended."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from made_run import make_run, mixture

from embed_ops.analysis.recommend import recommend
from embed_ops.errors import SourceError, StageError

ROWS, DIM = 400, 12
DRAW = mixture(DIM, 8, spread=0.3)
X = DRAW(0, ROWS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a run of items, two of which have the same name."""
    path = tmp_path_factory.mktemp("recommend") / "run"
    names = [f"item {row if row != 399 else 0}" for row in range(ROWS)]
    make_run(
        str(path),
        [250, 150],
        DRAW,
        unit_rows=100,
        keep=lambda first, end: {"name": pa.array(names[first:end])},
    )
    return str(path)


def history() -> tuple[list[str], list[str], dict[str, list[int]]]:
    """Give each of 40 users six items of one component, and some items that everybody has."""
    draw = np.random.default_rng(0)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    baskets = {}
    for number in range(40):
        near = np.argsort(-(unit @ unit[draw.integers(1, 399)]))[:25]
        baskets[f"user {number}"] = [
            int(row) for row in draw.permutation([row for row in near if row not in (0, 399)])[:6]
        ]
    pairs = [(user, f"item {row}") for user, basket in baskets.items() for row in basket]
    return [user for user, _ in pairs], [item for _, item in pairs], baskets


def test_the_nearest_new_items(run: str) -> None:
    """Recommended are the rows of the greatest cosine with the mean of a user's other items."""
    users, items, baskets = history()
    found = recommend(run, [*users, "user 0"], [*items, "nothing known"], "name", 7, popularity=0)
    assert (found.users, found.unknown, found.judged) == (list(baskets), 1, {})
    unit = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    for number, basket in enumerate(baskets.values()):
        mean = unit[basket].mean(axis=0)
        scores = unit @ mean / np.linalg.norm(mean)
        scores[basket] = -9
        order = np.argsort(-scores, kind="stable")[:7]
        assert found.ids[number].tolist() == order.tolist()
        np.testing.assert_allclose(found.scores[number], scores[order], atol=1e-6)


def test_one_item_is_left_out_and_looked_for(run: str) -> None:
    """Hit rate and NDCG are those of the ranks; items of a component beat popular ones.

    The seed decides what is left.
    """
    users, items, baskets = history()
    found = recommend(run, users, items, "name", 10, hold_out=True, popularity=0)
    ours, theirs = found.judged["embedding"], found.judged["popularity"]
    assert ours["users"] == 40
    assert ours["hit_rate"] > theirs["hit_rate"]
    assert ours["ndcg"] > theirs["ndcg"]
    ranks = []
    for number, basket in enumerate(baskets.values()):
        # What was left out may be recommended; what is left may not.
        ranks += [rank for rank, row in enumerate(found.ids[number].tolist()) if row in basket]
    assert ours["hit_rate"] == pytest.approx(len(ranks) / 40)
    assert ours["ndcg"] == pytest.approx(sum(1 / math.log2(2 + rank) for rank in ranks) / 40)
    assert recommend(run, users, items, "name", 10, hold_out=True, seed=1).judged != found.judged
    both = recommend(run, users, items, "name", 10, hold_out=True).judged
    assert both["popularity"] == theirs
    assert both["embedding"] == ours
    assert both["embedding and popularity"]["hit_rate"] > theirs["hit_rate"]


def test_what_can_not_be_recommended(run: str) -> None:
    """No such column, no known item."""
    with pytest.raises(StageError, match="no column 'sku' was kept; there are name"):
        recommend(run, ["a"], ["item 1"], "sku")
    with pytest.raises(SourceError, match="none of 1 items of the history"):
        recommend(run, ["a"], ["x"], "name")

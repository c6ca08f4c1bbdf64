"""Items to users: each user is the mean of its items' vectors.

It gets near items that it does not have, n(item) being the users of an item:

    score = cosine(user, item) + popularity * log(1 + n(item)) / log(1 + greatest n)

What that is worth is measured by leaving one item of each user out, chosen by hash, and looking
where it comes up: hit rate and NDCG at k (one relevant item, so NDCG is 1 / log2(1 + rank)), beside
recommending what most users have.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.analysis.neighbors import searching
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.engine.session import OpenSession, default_session
from embed_ops.errors import SourceError, StageError
from embed_ops.numerics.exact import dots, norms_of
from embed_ops.numerics.topk import Ints, Vectors, scaled
from embed_ops.postprocessing.search import make_search, rows_at, search_run
from embed_ops.runs.columns import read_columns
from embed_ops.runs.rows import RunRows
from embed_ops.storage.location import locate

_CANDIDATES = 200
"""Nearest and most frequent items, beside those of the user, that are scored for each user."""
_MOST_ITEMS = 1_000
"""Items of a user that count: the first ones."""
_ONLY = 1e9
"""A weight of popularity beside which cosines only break ties."""


@dataclass(frozen=True)
class Recommended:
    """What was found.

    Attributes:
        users: by name, in order; `ids`: (users, k) rows, -1 where there are fewer; `scores`: as
            above.
        unknown: items of the history that the run does not have.
        judged: figures by judge, {} without a held-out item.
    """

    users: list[str]
    ids: Ints
    scores: np.ndarray[Any, np.dtype[np.float64]]
    unknown: int
    judged: dict[str, dict[str, float]]


def recommend(
    run: str,
    users: Sequence[str],
    items: Sequence[str],
    item_column: str,
    k: int = 10,
    *,
    popularity: float = 1.0,
    hold_out: bool = False,
    seed: int = 0,
    column: str | None = None,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
) -> Recommended:
    """Recommend k rows of a run to each user.

    Args:
        run: address of the run, whose rows are the items.
        users: of each line of the history.
        items: of each line: a value of the run's kept column `item_column`, as text.
        item_column: kept column that names a row; of rows with the same name the first counts.
        k: items for each user.
        popularity: weight of how many users have an item, beside the cosine; 0: the nearest items,
            whatever others have.
        hold_out: leave one item of each user out, and judge.
        seed: of the hash that chooses it.
        column: vector column, where there are several.
        session: opens the engine for runs of many rows.
        reporter: told what is done.

    Raises:
        StageError: there is no such column.
        SourceError: no item of the history is in the run.
    """
    reporter = reporter or Silent()
    rows = RunRows(locate(run))
    vectors = rows.vector(column)
    places = _places(rows, item_column, set(items))
    baskets = _baskets(users, items, places)
    if not baskets:
        raise SourceError(
            f"{run}: none of {len(set(items)):,} items of the history is in its column {item_column!r}"
        )
    left_out = _leave_out(baskets, seed) if hold_out else {}
    baskets = {user: [row for row in basket if row != left_out.get(user)] for user, basket in baskets.items()}
    names = list(baskets)
    known = np.unique(np.concatenate([np.array(basket, np.int64) for basket in baskets.values()]))
    x = rows_at(rows, vectors, known)
    unit = scaled(x, norms_of(x))
    asked = np.stack([unit[np.searchsorted(known, baskets[user])].mean(axis=0) for user in names])
    reporter.say(f"recommending to {len(names):,} users")
    most = min(rows.rows, k + _CANDIDATES + max(map(len, baskets.values())))
    with searching(rows.rows, session) as engine:
        candidates = search_run(rows, make_search(rows, vectors, most, "cosine", None), asked, None, engine)
    frequent = Counter(row for basket in baskets.values() for row in basket)
    pools = _Pools(baskets, names, candidates.ids, candidates.scores, asked, known, unit, frequent)
    ids, scores = pools.best(k, popularity)
    judged = _judged(pools, ids, left_out, k, popularity) if left_out else {}
    return Recommended(names, ids, scores, sum(item not in places for item in set(items)), judged)


def _baskets(users: Sequence[str], items: Sequence[str], places: Mapping[str, int]) -> dict[str, list[int]]:
    """Bring the lines of a history together: the rows of each user's first items, each once."""
    baskets: dict[str, list[int]] = {}
    for user, item in zip(users, items, strict=True):
        if item in places:
            basket = baskets.setdefault(user, [])
            if places[item] not in basket and len(basket) < _MOST_ITEMS:
                basket.append(places[item])
    return baskets


def _places(rows: RunRows, item_column: str, wanted: set[str]) -> dict[str, int]:
    """Find the rows of items by name; only those that are asked for are held."""
    base, last = rows.lineage[-1][0], len(rows.lineage) - 1
    if item_column not in rows.names(last):
        raise StageError(
            f"{base.path}: no column {item_column!r} was kept; there are "
            f"{', '.join(rows.names(last)) or 'none'}"
        )
    places: dict[str, int] = {}
    for number, record in enumerate(rows.records):
        names = (
            read_columns(base, record.unit, [item_column], record.rows)
            .column(0)
            .cast(pa.string())
            .to_pylist()
        )
        for place, name in enumerate(names):
            if name in wanted:
                places.setdefault(name, rows.starts[number] + place)
    return places


def _leave_out(baskets: Mapping[str, Sequence[int]], seed: int) -> dict[str, int]:
    """Choose an item of each user that has two or more, by hash."""

    def drawn(user: str, row: int) -> bytes:
        return hashlib.sha256(f"{seed} {user} {row}".encode()).digest()

    return {
        user: min(basket, key=lambda row: drawn(user, row))
        for user, basket in baskets.items()
        if len(basket) > 1
    }


@dataclass(frozen=True)
class _Pools:
    """The items that come into question for each user.

    The nearest ones, and the most frequent ones.
    """

    baskets: Mapping[str, Sequence[int]]
    names: Sequence[str]
    near: Ints
    cosines: np.ndarray[Any, np.dtype[np.float64]]
    asked: Vectors
    known: Ints
    unit: Vectors
    frequent: Counter[int]

    def best(self, k: int, popularity: float) -> tuple[Ints, np.ndarray[Any, np.dtype[np.float64]]]:
        """Give the k best new items of each user: rows and scores, (users, k)."""
        most = np.log1p(max(self.frequent.values()))
        longest = max(map(len, self.baskets.values()))
        by_count = sorted(self.frequent.items(), key=lambda item: (-item[1], item[0]))
        top = np.array([row for row, _ in by_count[: k + _CANDIDATES + longest]], np.int64)
        of_top = self.unit[np.searchsorted(self.known, top)]
        ids, scores = np.full((len(self.names), k), -1, np.int64), np.full((len(self.names), k), np.nan)
        lengths = norms_of(self.asked)
        for number, user in enumerate(self.names):
            there = self.near[number] >= 0
            products = dots(of_top, np.arange(len(top)), self.asked, np.full(len(top), number))
            cosine = dict(zip(top.tolist(), (products / (lengths[number] or 1.0)).tolist(), strict=True))
            cosine |= dict(
                zip(self.near[number][there].tolist(), self.cosines[number][there].tolist(), strict=True)
            )
            for row in self.baskets[user]:
                cosine.pop(row, None)
            rows, near = np.array(list(cosine), np.int64), np.array(list(cosine.values()))
            prior = np.log1p([self.frequent.get(row, 0) for row in rows.tolist()]) / most
            total = near + popularity * prior
            order = np.lexsort((rows, -total))[:k]
            ids[number, : len(order)], scores[number, : len(order)] = rows[order], total[order]
        return ids, scores


def _judged(
    pools: _Pools, ids: Ints, left_out: Mapping[str, int], k: int, popularity: float
) -> dict[str, dict[str, float]]:
    """Judge what was recommended, `ids`, beside the embedding alone and popularity alone."""
    judges = {"embedding": pools.best(k, 0.0)[0], "popularity": pools.best(k, _ONLY)[0]}
    if popularity:
        judges = {"embedding and popularity": ids, **judges}
    return {name: _judge(pools.names, of_judge, left_out) for name, of_judge in judges.items()}


def _judge(names: Sequence[str], ids: Ints, left_out: Mapping[str, int]) -> dict[str, float]:
    hits, gains = [], []
    for number, user in enumerate(names):
        if user in left_out:
            place = np.flatnonzero(ids[number] == left_out[user])
            hits.append(float(len(place) > 0))
            gains.append(1 / np.log2(2 + place[0]) if len(place) else 0.0)
    return {
        "users": len(hits),
        "hit_rate": float(np.mean(hits)) if hits else 0.0,
        "ndcg": float(np.mean(gains)) if gains else 0.0,
    }

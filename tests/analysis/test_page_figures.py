"""The figures of a run's page against numpy and scikit-learn, and what its script is given."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter

import numpy as np
import pytest
from made_run import mixture
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from embed_ops.analysis.page.against import drift, kept_neighbors
from embed_ops.analysis.page.clusters import clusters_of, distinguishing
from embed_ops.analysis.page.health import health, layout, over_all_rows
from embed_ops.analysis.page.points import COLORS, as_script, columns_of
from embed_ops.analysis.page.sample import Sample
from embed_ops.analysis.page.verdict import soundness
from embed_ops.errors import PackageError
from embed_ops.runs.statistics import VectorStatistics, report_of

BAD = "<script>document.title='run'</script> & \"quoted\""


def test_figures_are_those_of_numpy() -> None:
    """Norms, spread, dead dimensions, duplicates and explained variance."""
    x = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    x[:, 3] = 2
    x[100:110] = x[0]
    found = health(x, 0)
    np.testing.assert_allclose(found["norms"], np.linalg.norm(x.astype(np.float64), axis=1))
    np.testing.assert_allclose(
        found["explained"], np.cumsum(PCA().fit(x.astype(np.float64)).explained_variance_ratio_), atol=1e-9
    )
    assert (found["dead"], found["duplicates"], found["dim"]) == (1, 10, 10)
    few = PCA().fit(x[:6].astype(np.float64)).explained_variance_ratio_
    np.testing.assert_allclose(health(x[:6], 0)["explained"][:6], np.cumsum(few), atol=1e-9)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = unit @ unit.T
    assert found["mean_cosine"] == pytest.approx((pairs.sum() - 500) / (500 * 499), abs=0.02)
    assert any("never change" in line.text and line.level == "amber" for line in soundness(found))
    narrow = health((x + 30).astype(np.float32), 0)
    assert any("cone" in line.remedy and line.level == "amber" for line in soundness(narrow))


@pytest.mark.parametrize("rows", [1, 2, 4, 30])
@pytest.mark.parametrize("method", ["auto", "pca"])
def test_few_rows_have_figures_and_a_place(rows: int, method: str) -> None:
    """One row, rows that are all the same, fewer rows than a map needs: no error, finite places."""
    for x in (
        np.ones((rows, 5), np.float32),
        np.random.default_rng(1).normal(size=(rows, 5)).astype(np.float32),
    ):
        found = health(x, 0)
        assert soundness(found)
        plane, told = layout(x, method, 0)
        assert plane.shape == (rows, 2)
        assert np.isfinite(plane).all()
        assert told in ("t-SNE", "UMAP", "principal components")


def test_umap_where_it_is_installed() -> None:
    """With the extra the map is UMAP's, the same for the same seed, for few rows too.

    Without it the error names the extra.
    """
    x = mixture(16, 4, spread=0.3)(0, 300)
    if importlib.util.find_spec("umap") is None:
        with pytest.raises(PackageError, match=r"embed-ops\[umap\]"):
            layout(x, "umap", 0)
        return
    for rows in (6, 300):
        plane, told = layout(x[:rows], "auto", 0)
        assert (plane.shape, told) == ((rows, 2), "UMAP")
        np.testing.assert_array_equal(plane, layout(x[:rows], "umap", 0)[0])


def test_neighbors_kept_are_those_of_scikit_learn() -> None:
    """The share of ten nearest rows that two spaces share; the same space keeps all.

    A turned one too.
    """
    draw = np.random.default_rng(2)
    x = draw.normal(size=(200, 8)).astype(np.float32)
    y = (x + 0.4 * draw.normal(size=x.shape)).astype(np.float32)
    near = [NearestNeighbors(n_neighbors=11, metric="cosine").fit(z).kneighbors(z)[1][:, 1:] for z in (x, y)]
    expected = np.mean(
        [len(set(left) & set(right)) / 10 for left, right in zip(*map(np.ndarray.tolist, near), strict=True)]
    )
    shares, here, there = kept_neighbors(x, y)
    assert shares.mean() == pytest.approx(expected, abs=1e-9)
    np.testing.assert_array_equal(here, near[0][:, 0])
    np.testing.assert_array_equal(there, near[1][:, 0])
    turn = np.linalg.qr(draw.normal(size=(8, 8)))[0].astype(np.float32)
    assert kept_neighbors(x, x @ turn)[0].mean() > 0.999
    rows = np.arange(1000, 1200)
    told = drift(x, (x + 1).astype(np.float32), rows)
    assert told.mean_moved == pytest.approx(np.sqrt(8) / np.sqrt(x.var(axis=0).sum()), rel=1e-4)
    assert drift(x, x[:, :3], rows).mean_moved is None
    # What moved most is a row of the sample, and its nearest ones are those of scikit-learn.
    most = drift(x, y, rows).most
    assert [item.kept for item in most] == sorted(shares)[: len(most)]
    assert all(item.nearest_here == 1000 + near[0][item.row - 1000, 0] for item in most)
    assert drift(x, x, rows).most == ()


def test_words_set_clusters_apart() -> None:
    """A word that is frequent in one cluster only comes first; without texts there are none."""
    labels = np.array([0, 0, 1, 1])
    texts = ["open file file", "close file", "thread lock", "thread open"]
    found = clusters_of(labels, np.array([0.2, 0.1, 0.3, 0.4]), texts, 5, {}, ["p", "q", "q", "q"])
    assert [item.words[0] for item in found] == ["file", "thread"]
    assert [item.central for item in found] == [(1, 0), (2, 3)]
    assert [item.labels for item in found] == [(("p", 0.5), ("q", 0.5)), (("q", 1.0),)]
    assert found[0].title == f"0: {' '.join(found[0].words[:2])}"
    wordless = clusters_of(labels, np.zeros(4), [""] * 4, 5, {}, ["p", "q", "r", "r"])
    assert [(item.words, item.title) for item in wordless] == [
        ((), "cluster 0, mostly p"),
        ((), "cluster 1, mostly r"),
    ]
    assert clusters_of(labels, np.zeros(4), [""] * 4, 5, {})[0].title == "cluster 0"
    known = clusters_of(np.array([0, 0, 1]), np.zeros(3), [""] * 3, 5, {0: 20, 1: 30})
    assert [(item.cluster, item.rows, item.all_rows) for item in known] == [(1, 1, 30), (0, 2, 20)]


def test_words_are_scored_as_published() -> None:
    """c-TF-IDF counted by hand.

    The share of a word in its cluster times log(1 + words of a mean cluster / frequency in all).
    """
    draw = np.random.default_rng(3)
    vocabulary = ["".join(draw.choice(list("abcdefgh"), 6)) for _ in range(60)]
    texts, labels = [" ".join(draw.choice(vocabulary, 12)) for _ in range(80)], draw.integers(0, 5, 80)
    counts = {
        c: Counter(" ".join(text for text, label in zip(texts, labels, strict=True) if label == c).split())
        for c in range(5)
    }
    everywhere, mean = (
        sum(counts.values(), Counter()),
        np.mean([counted.total() for counted in counts.values()]),
    )
    for cluster, words in distinguishing(labels, texts).items():
        mine = counts[cluster]
        scores = {
            word: number / mine.total() * np.log(1 + mean / everywhere[word]) for word, number in mine.items()
        }
        assert [scores[word] for word in words] == pytest.approx(sorted(scores.values(), reverse=True)[:8])


def test_statistics_of_all_rows_come_before_those_of_the_sample() -> None:
    """A dimension that is the same in the sample alone is not called dead.

    Statistics that are not whole are not used.
    """
    x = np.random.default_rng(4).normal(size=(900, 6)).astype(np.float32)
    x[:, 2], x[:20, 4], x[500] = 3, 1, 0
    x[:, 2] = 3
    sampled, every = health(x[:20], 0), report_of({"embedding": VectorStatistics.of(x)}, 900)["embedding"]
    assert sampled["dead"] == 2
    found = over_all_rows(sampled, every)
    assert (found["dead"], found["spread_rows"]) == (1, 900)
    np.testing.assert_allclose(found["mean"], x.mean(axis=0, dtype=np.float64), atol=1e-9)
    np.testing.assert_allclose(found["spread"], x.std(axis=0, dtype=np.float64), atol=1e-9)
    assert any("1 of 6 dimensions never change in all 900 rows" in line.text for line in soundness(found))
    for of_part in (None, {**every, "complete": False}):
        assert over_all_rows(sampled, of_part) is sampled
    same = soundness(health(np.ones((9, 3), np.float32), 0))
    assert "do not differ" in same[0].text
    assert not any("cosine" in line.text for line in soundness(health(np.ones((1, 3), np.float32), 0)))


def test_colors_differ() -> None:
    """Any two of thirty-two colours, and each from the gray of others, are far apart in Lab."""
    rgb = np.array([[int(color[place : place + 2], 16) for place in (1, 3, 5)] for color in COLORS]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x = np.cbrt(linear @ np.array(to_xyz).T / [0.9505, 1.0, 1.089])
    lab = np.stack([116 * x[:, 1] - 16, 500 * (x[:, 0] - x[:, 1]), 200 * (x[:, 1] - x[:, 2])], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(len(lab))
    assert apart[:24, :24].min() > 25
    assert apart.min() > 20


def test_values_end_no_script() -> None:
    """What stands in a row can end no script and begin no tag, and is read back as it was."""
    values = [BAD, "</script>", "<!--", "\u2028", 'a"b\\', "é𝄞"]
    written = as_script(values)
    assert not set(written) & set("<>&\u2028")
    assert json.loads(written) == values


def test_numbers_are_exact_or_text() -> None:
    """Ids of more digits than a script holds are text; floats that are none are left empty."""
    sample = Sample(
        ids=np.arange(3),
        x=np.ones((3, 2), np.float32),
        column="embedding",
        kept={
            "id": ["9007199254740993", "1", "2"],
            "year": ["1999", "", "-3"],
            "score": ["0.5", "nan", "1e9"],
        },
        keys=[("a", 0), ("a", 1), ("a", 2)],
        numbers=frozenset({"id", "year", "score"}),
        texts=None,
        thumbnails=None,
        clusters=None,
        distance=None,
        label=None,
        sizes={},
        broken=0,
    )
    columns = {column["name"]: column for column in columns_of(sample, {})}
    assert columns["id"]["values"] == ["9007199254740993", "1", "2"]
    assert columns["year"]["numbers"] == [1999, None, -3]
    assert columns["score"]["numbers"] == [0.5, None, 1e9]

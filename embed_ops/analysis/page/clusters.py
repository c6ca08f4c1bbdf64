"""What the clusters of a sample are: size, tightness, central rows, words, labels. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embed_ops.numerics.topk import Ints

_WORDS = 8
_CENTRAL = 3
_LABELS = 4
_HALF = 0.5


@dataclass(frozen=True)
class Cluster:
    """One cluster, as its rows in the sample show it.

    Attributes:
        cluster: its number; `rows` of it are in the sample.
        all_rows: of the whole run, None where not known.
        distance: the median one of its rows to its centre; `spread` is its share of the widest
            cluster's, 0 to 1.
        central: places in the sample of the rows nearest to the centre.
        words: that set it apart.
        labels: (label, share of its rows), most frequent first; `others` is the share of the rest.
    """

    cluster: int
    rows: int
    all_rows: int | None
    distance: float
    spread: float
    central: tuple[int, ...]
    words: tuple[str, ...]
    labels: tuple[tuple[str, float], ...]
    others: float

    @property
    def title(self) -> str:
        """Name it by its number and its first words, or by the label that half of its rows have."""
        if self.words:
            return f"{self.cluster}: {' '.join(self.words[:2])}"
        if self.labels and self.labels[0][1] >= _HALF:
            return f"cluster {self.cluster}, mostly {self.labels[0][0]}"
        return f"cluster {self.cluster}"


def clusters_of(
    labels: Ints,
    distance: npt.NDArray[np.float64],
    texts: Sequence[str],
    most: int,
    sizes: Mapping[int, int],
    kinds: Sequence[str] | None = None,
) -> list[Cluster]:
    """Describe the largest clusters of a sample.

    Where it is known how many rows of the whole run they have (`sizes`), these come first.

    Args:
        labels: (rows,) the cluster of each row.
        distance: (rows,) to its centre.
        texts: of the rows, for words; empty ones where there are none.
        most: clusters that are described.
        sizes: rows of clusters in the whole run.
        kinds: a label of each row, to see what the clusters are made of.
    """
    counts = Counter(labels.tolist())
    order = sorted(counts, key=lambda cluster: (-sizes.get(cluster, 0), -counts[cluster], cluster))
    words = distinguishing(labels, texts)
    medians = {
        cluster: float(np.median(distance[labels == cluster])) for cluster in order[:most] if counts[cluster]
    }
    widest = max(medians.values(), default=0.0) or 1.0
    described = []
    for cluster, median in medians.items():
        mine = np.flatnonzero(labels == cluster)
        near = mine[np.argsort(distance[mine], kind="stable")]
        made_of = Counter(kinds[row] for row in mine.tolist()) if kinds is not None else Counter()
        shares = tuple((name, rows / len(mine)) for name, rows in made_of.most_common(_LABELS))
        described.append(
            Cluster(
                cluster,
                len(mine),
                sizes.get(cluster),
                median,
                median / widest,
                tuple(near[:_CENTRAL].tolist()),
                tuple(words.get(cluster, ())),
                shares,
                max(0.0, 1.0 - sum(share for _, share in shares)) if shares else 0.0,
            )
        )
    return described


def distinguishing(labels: Ints, texts: Sequence[str]) -> dict[int, list[str]]:
    """Find the words of each cluster with the greatest c-TF-IDF; none where there are no texts.

    Words are scored as published (Grootendorst 2022): frequency in the cluster times log(1 + A /
    frequency in all), A the mean number of words of a cluster.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    present = np.unique(labels)
    joined = [
        " ".join(texts[row] for row in np.flatnonzero(labels == cluster).tolist()) for cluster in present
    ]
    if not any(part.strip() for part in joined):
        return {}
    counter = CountVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{3,}\b", min_df=1)
    try:
        counts = counter.fit_transform(joined).toarray().astype(np.float64)
    except ValueError:
        # No text has a word that counts.
        return {}
    names = counter.get_feature_names_out()
    frequency = counts / np.maximum(1.0, counts.sum(axis=1, keepdims=True))
    scores = frequency * np.log1p(counts.sum(axis=1).mean() / np.maximum(1.0, counts.sum(axis=0)))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :_WORDS]
    lines = zip(present.tolist(), best.tolist(), scores, strict=True)
    return {cluster: [str(names[word]) for word in line if score[word] > 0] for cluster, line, score in lines}

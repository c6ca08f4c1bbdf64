"""GraphSAGE weights from a graph alone.

Neighbours shall have like vectors, nodes drawn at random unlike ones.

The unsupervised loss of GraphSAGE (Hamilton et al. 2017): -log sigmoid(z_u . z_v) - log
sigmoid(-z_u . z_n), v a neighbour of u, n drawn by degree to the power of 3/4. Random weights are a
strong start already, so what is told is how much better the trained ones find edges that were held
out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from embed_ops.encoders.graph.config import GraphConfig
from embed_ops.encoders.graph.layers import Edges
from embed_ops.encoders.graph.model import GraphModel
from embed_ops.encoders.graph.partition import Ints, mix

_POSITIVES = 65_536
"""Edges of a step."""
_DEGREE_POWER = 0.75
_EVERY = 25


@dataclass(frozen=True)
class Fitted:
    """Trained weights; and the area under the ROC curve of held-out edges against random pairs.

    Of features, random and trained weights.
    """

    weights: dict[str, torch.Tensor]
    auc: dict[str, float]


def hold_out(src: Ints, dst: Ints, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose edges to hold out, (edges,), by a hash of their ends.

    Both directions of an edge are held out together.
    """
    low, high = np.minimum(src, dst).astype(np.uint64), np.maximum(src, dst).astype(np.uint64)
    hashes = mix(mix(low + np.uint64(seed)) ^ high)
    held: npt.NDArray[np.bool_] = (hashes < np.uint64(int(share * (2**64 - 1)))) & (src != dst)
    return held


def fit(
    config: GraphConfig,
    x: npt.NDArray[np.float32],
    src: Ints,
    dst: Ints,
    *,
    steps: int,
    learning_rate: float,
    negatives: int,
    holdout: float,
    seed: int,
    say: Callable[[str], None],
) -> Fitted:
    """Train on a graph that is in memory.

    Args:
        config: of the model.
        x: (nodes, width) features.
        src: (edges,) rows that send.
        dst: (edges,) rows that receive.
        steps: over the whole graph.
        learning_rate: of Adam.
        negatives: nodes drawn for each edge.
        holdout: share of the edges that are not shown.
        seed: of weights, draws and held-out edges.
        say: hears how the loss goes.
    """
    generator = torch.Generator().manual_seed(seed)
    held = hold_out(src, dst, holdout, seed)
    features = torch.from_numpy(x)
    shown = _edges(src[~held], dst[~held], len(x))
    start = initial_weights(config, generator)
    weights = {name: values.clone().requires_grad_() for name, values in start.items()}
    pairs = torch.from_numpy(np.stack([src[~held], dst[~held]]))
    degree = torch.bincount(pairs[1], minlength=len(x)).double().clamp(min=1e-3) ** _DEGREE_POWER
    optimizer = torch.optim.Adam(list(weights.values()), lr=learning_rate)
    for step in range(1, steps + 1):
        loss: Any = _loss(
            embed(GraphModel(config, weights), features, shown), pairs, degree, negatives, generator
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % _EVERY == 0:
            say(f"step {step} of {steps}: loss {loss.item():.4f}")
    trained = {name: values.detach() for name, values in weights.items()}
    tests = torch.from_numpy(np.stack([src[held], dst[held]]))
    others = torch.randint(len(x), tests.shape, generator=generator)
    vectors = {"features": features}
    with torch.inference_mode():
        vectors |= {
            name: embed(GraphModel(config, values), features, shown)
            for name, values in (("random", start), ("trained", trained))
        }
    return Fitted(trained, {name: _auc(found, tests, others) for name, found in vectors.items()})


def initial_weights(config: GraphConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw weights as torch.nn.Linear does, biases zero."""
    found = {}
    for name, axes in config.shapes().items():
        size = [axis.size for axis in axes]
        bound = 1 / math.sqrt(size[-1])
        drawn = torch.rand(size, generator=generator) * 2 * bound - bound
        found[name] = drawn if len(size) > 1 else torch.zeros(size)
    return found


def embed(model: GraphModel, x: torch.Tensor, edges: Edges) -> torch.Tensor:
    """Put a graph through a model in one piece, (nodes, width)."""
    states = [x]
    for layer in range(1, model.depth + 1):
        sent = model.messages(layer, states[-1], None)
        states.append(model.layer(layer, sent, edges, states[-1], None, None))
    return model.output(states[1:])


def _edges(src: Ints, dst: Ints, nodes: int) -> Edges:
    order = np.lexsort((src, dst))
    ends = np.concatenate([[0], np.cumsum(np.bincount(dst, minlength=nodes))])
    return Edges(torch.from_numpy(ends), torch.from_numpy(src[order]))


def _loss(
    z: torch.Tensor, pairs: torch.Tensor, degree: torch.Tensor, negatives: int, generator: torch.Generator
) -> torch.Tensor:
    chosen = pairs[:, torch.randint(pairs.shape[1], (min(_POSITIVES, pairs.shape[1]),), generator=generator)]
    drawn = torch.multinomial(degree, chosen.shape[1] * negatives, replacement=True, generator=generator)
    near = F.logsigmoid((z[chosen[0]] * z[chosen[1]]).sum(1)).mean()
    far = F.logsigmoid(-(z[chosen[0].repeat(negatives)] * z[drawn]).sum(1)).mean()
    # Weighed by their number, draws pull all vectors to zero where features have one sign.
    return -near - far


def _auc(z: torch.Tensor, edges: torch.Tensor, others: torch.Tensor) -> float:
    scores: Any = torch.cat([(z[ends[0]] * z[ends[1]]).sum(1) for ends in (edges, others)]).numpy()
    truth = np.repeat([1, 0], [edges.shape[1], others.shape[1]])
    return float(roc_auc_score(truth, scores))

"""GraphSAGE weights from a graph alone.

Neighbours shall have like vectors, nodes drawn at random unlike ones.

The unsupervised loss of GraphSAGE (Hamilton et al. 2017): -log sigmoid(z_u . z_v) - log
sigmoid(-z_u . z_n), v a neighbour of u, n drawn by degree to the power of 3/4. Random weights are a
strong start already, so what is told is how much better the trained ones find edges that were held
out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
from embed_ops.spec.fit import FitSpec

_POSITIVES = 65_536
"""Edges of a step."""
_DEGREE_POWER = 0.75
_EVERY = 25
"""Steps from one loss that is said to the next."""


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
    options: FitSpec,
    say: Callable[[str], None],
) -> Fitted:
    """Train on a graph that is in memory.

    Args:
        config: of the model.
        x: (nodes, width) features.
        src: (edges,) rows that send.
        dst: (edges,) rows that receive.
        options: steps, learning rate, draws, the share of edges that is not shown, and the seed.
        say: hears how the loss goes.
    """
    generator = torch.Generator().manual_seed(options.seed)
    held = hold_out(src, dst, options.holdout, options.seed)
    features = torch.from_numpy(x)
    shown = _edges(src[~held], dst[~held], len(x))
    start = initial_weights(config, generator)
    pairs = torch.from_numpy(np.stack([src[~held], dst[~held]]))
    trained = _trained(config, start, features, shown, pairs, options, generator, say)
    tests = torch.from_numpy(np.stack([src[held], dst[held]]))
    others = torch.randint(len(x), tests.shape, generator=generator)
    vectors = {"features": features}
    with torch.inference_mode():
        vectors |= {
            name: embed(GraphModel(config, weights), features, shown)
            for name, weights in (("random", start), ("trained", trained))
        }
    return Fitted(trained, {name: _auc(z, tests, others) for name, z in vectors.items()})


def _trained(
    config: GraphConfig,
    start: Mapping[str, torch.Tensor],
    features: torch.Tensor,
    shown: Edges,
    pairs: torch.Tensor,
    options: FitSpec,
    generator: torch.Generator,
    say: Callable[[str], None],
) -> dict[str, torch.Tensor]:
    """Improve weights by Adam, each step over the whole graph.

    `pairs`: (2, edges) int64, both ends of the edges that are shown.
    """
    weights = {name: values.clone().requires_grad_() for name, values in start.items()}
    degree = torch.bincount(pairs[1], minlength=len(features)).double().clamp(min=1e-3) ** _DEGREE_POWER
    optimizer = torch.optim.Adam(list(weights.values()), lr=options.learning_rate)
    for step in range(1, options.steps + 1):
        z = embed(GraphModel(config, weights), features, shown)
        loss: Any = _loss(z, pairs, degree, options.negatives, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % _EVERY == 0:
            say(f"step {step} of {options.steps}: loss {loss.item():.4f}")
    return {name: values.detach() for name, values in weights.items()}


def initial_weights(config: GraphConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw weights as torch.nn.Linear does, biases zero."""
    weights = {}
    for name, axes in config.shapes().items():
        size = [axis.size for axis in axes]
        bound = 1 / math.sqrt(size[-1])
        drawn = torch.rand(size, generator=generator) * 2 * bound - bound
        weights[name] = drawn if len(size) > 1 else torch.zeros(size)
    return weights


def embed(model: GraphModel, x: torch.Tensor, edges: Edges) -> torch.Tensor:
    """Put a graph through a model in one piece, (nodes, width)."""
    states = [x]
    for layer in range(1, model.depth + 1):
        sent = model.messages(layer, states[-1], None)
        states.append(model.layer(layer, sent, edges, states[-1], None, None))
    return model.output(states[1:])


def _edges(src: Ints, dst: Ints, nodes: int) -> Edges:
    """Sort edges by (destination, source)."""
    order = np.lexsort((src, dst))
    ends = np.concatenate([[0], np.cumsum(np.bincount(dst, minlength=nodes))])
    return Edges(torch.from_numpy(ends), ends.tolist(), torch.from_numpy(src[order]))


def _loss(
    z: torch.Tensor, pairs: torch.Tensor, degree: torch.Tensor, negatives: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw edges and nodes, and give the loss of vectors `z`, (nodes, width).

    `pairs`: (2, edges); `degree`: (nodes,) by which nodes are drawn.
    """
    chosen = pairs[:, torch.randint(pairs.shape[1], (min(_POSITIVES, pairs.shape[1]),), generator=generator)]
    drawn = torch.multinomial(degree, chosen.shape[1] * negatives, replacement=True, generator=generator)
    near = F.logsigmoid((z[chosen[0]] * z[chosen[1]]).sum(1)).mean()
    far = F.logsigmoid(-(z[chosen[0].repeat(negatives)] * z[drawn]).sum(1)).mean()
    # Weighed by their number, draws pull all vectors to zero where features have one sign.
    return -near - far


def _auc(z: torch.Tensor, edges: torch.Tensor, others: torch.Tensor) -> float:
    """Measure how well products of vectors tell edges from random pairs, both (2, n)."""
    scores: Any = torch.cat([(z[ends[0]] * z[ends[1]]).sum(1) for ends in (edges, others)]).numpy()
    truth = np.repeat([1, 0], [edges.shape[1], others.shape[1]])
    return float(roc_auc_score(truth, scores))

"""How many replicas of how many threads, on two cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embed_ops.embedding.resources import replica_claim, replica_count, require_room, threads_for
from embed_ops.engine.base import Capacity
from embed_ops.errors import SpecError
from embed_ops.spec.spec import ResourcesSpec

GIB = 2**30
HERE = Capacity(cores=2, devices=0, memory=8 * GIB, store=GIB, cores_of_a_node=2, elastic=False)


@pytest.mark.parametrize(
    ("fields", "units", "weights", "threads", "replicas"),
    [
        ({}, 100, 0, 1, 2),
        ({}, 1, 0, 2, 1),
        ({}, 100, 10_000 * GIB, 2, 1),
        ({"threads_per_replica": 2}, 100, 0, 2, 1),
        ({"replicas": 2}, 1, 0, 1, 2),
        ({"replicas": [1, 2]}, 100, 0, 1, 2),
    ],
)
def test_layout(fields: dict[str, Any], units: int, weights: int, threads: int, replicas: int) -> None:
    """One thread a replica, unless units or memory are few, or the spec says otherwise.

    All fit beside their readers.
    """
    resources = ResourcesSpec(**fields)
    assert threads_for(HERE, resources, units, weights) == threads
    assert replica_count(HERE, resources, units, threads)[1] == replicas
    assert replicas * replica_claim(HERE, resources, threads, replicas).cores <= 1.5


def test_room() -> None:
    """A replica that can never be placed is refused, but not where nodes may join."""
    half = ResourcesSpec(gpus_per_replica=0.5)
    require_room(replace(HERE, elastic=True), half)
    require_room(replace(HERE, devices=1), half)
    with pytest.raises(SpecError, match=r"a replica needs 0\.5 GPU, this machine has 0"):
        require_room(HERE, half)

"""How many replicas of how many threads, on two cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embed_ops.embedding.resources import (
    READER_CPUS,
    gpus_for,
    readers_of,
    replica_claim,
    replica_count,
    require_room,
    threads_for,
)
from embed_ops.engine.base import Capacity, Claim
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
    assert threads_for(HERE, resources, units, weights, gpus=0) == threads
    assert replica_count(HERE, resources, units, threads, gpus=0)[1] == replicas
    assert replicas * replica_claim(HERE, threads, 0, replicas).cores <= 1.5


def test_room() -> None:
    """A replica that can never be placed is refused, but not where nodes may join."""
    require_room(replace(HERE, elastic=True), 0.5)
    require_room(replace(HERE, devices=1), 0.5)
    with pytest.raises(SpecError, match=r"a replica needs 0\.5 GPU, and this machine has 0"):
        require_room(HERE, 0.5)


@pytest.mark.parametrize(
    ("asked", "devices", "able", "gpus"),
    [("auto", 2, True, 1), ("auto", 0, True, 0), ("auto", 2, False, 0), (0, 2, True, 0), (0.5, 2, True, 0.5)],
)
def test_gpus(asked: Any, devices: int, able: bool, gpus: float) -> None:
    """A replica has a GPU where there is one that its family uses, or what the spec says."""
    resources = ResourcesSpec(gpus_per_replica=asked)
    assert gpus_for(replace(HERE, devices=devices), resources, able=able) == gpus


def test_beside_gpus() -> None:
    """Replicas are as many as fit onto the GPUs, one thread each, and every core reads."""
    many = replace(HERE, cores=16, devices=2)
    assert threads_for(many, ResourcesSpec(), 100, 0, gpus=0.5) == 1
    assert replica_count(many, ResourcesSpec(), 100, 1, gpus=0.5) == (4, 4)
    assert replica_claim(many, 1, gpus=0.5) == Claim(READER_CPUS, 0.5)
    assert readers_of(16, "text", gpus=1) == (16, 0.125)
    assert readers_of(16, "text", gpus=0) == (8, 0.25)
    assert readers_of(16, "image", gpus=0) == (32, 0.0625)

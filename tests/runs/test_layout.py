"""How many replicas of how many threads, on the session's two cores."""

from __future__ import annotations

from typing import Any

import pytest

from embed_ops.embedding.resources import replica_count, replica_resources, threads_for
from embed_ops.spec.spec import ResourcesSpec

pytestmark = pytest.mark.usefixtures("ray_session")
GIB = 2**30


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
    assert threads_for(resources, units, weights) == threads
    assert replica_count(resources, units, threads)[1] == replicas
    assert replicas * replica_resources(resources, threads, replicas)["num_cpus"] <= 1.5

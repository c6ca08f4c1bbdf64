"""What every engine promises: calls, shared values, claims, the request to stop, deaths."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from embed_ops.engine.base import Claim, Engine
from embed_ops.engine.choice import Planned
from embed_ops.engine.errors import WorkerDied
from embed_ops.engine.session import kept, session
from embed_ops.engine.stopping import StopRequest
from embed_ops.errors import EmbedOpsError, SourceError, SpecError, Stopped
from embed_ops.spec.spec import parse_stage
from embed_ops.spec.stage import CenterSpec, NormalizeSpec

SMALL = Claim(cores=0.5)


pytestmark = pytest.mark.on_every_engine


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Open each engine."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    with session(Planned(engine=request.param)) as opened:
        assert opened.name == request.param
        yield opened


def test_each_hands_over_shared_values(engine: Engine) -> None:
    """A call is given a shared value itself, values come with their number, memory is measured."""
    shared = engine.share(np.arange(6) * 10)
    calls = [(shared, number) for number in range(6)]
    assert dict(engine.each(operator.getitem, calls)) == {number: 10 * number for number in range(6)}
    assert engine.all(operator.getitem, [(shared, 4), (shared, 1)]) == [40, 10]
    assert engine.memory > 2**20


@pytest.mark.parametrize("parts", [1, 3])
def test_values_go_from_call_to_call(engine: Engine, parts: int) -> None:
    """What `begin` gives arrives as the member it stands for, also where there is only one."""
    members = engine.begin(np.split, (np.arange(6), parts), parts)
    sums = engine.all(np.sum, [(member,) for member in members])
    assert sums == [int(part.sum()) for part in np.split(np.arange(6), parts)]


def test_errors(engine: Engine) -> None:
    """An error of ours is raised as it was, or becomes the value of its call."""
    calls = [({"kind": kind},) for kind in ("normalize", "nothing", "center")]
    with pytest.raises(SpecError, match="nothing"):
        engine.all(parse_stage, calls)

    def noted(number: int, error: EmbedOpsError) -> str:
        return f"{number} failed: {type(error).__name__}"

    values = dict(engine.each(parse_stage, calls, failed=noted))
    fine = {0: NormalizeSpec(kind="normalize"), 2: CenterSpec(kind="center")}
    assert values == fine | {1: "1 failed: SpecError"}


def test_stop(engine: Engine) -> None:
    """Calls in flight are finished, others are not begun; a deadline does the same."""
    stop = StopRequest()
    ended = []

    def stop_at_the_first() -> None:
        for number, _ in engine.until(stop).each(abs, [(-1,)] * 1000):
            stop.ask()
            ended.append(number)

    with pytest.raises(Stopped):
        stop_at_the_first()
    assert 0 < len(ended) <= 2 * engine.capacity().cores
    with pytest.raises(Stopped):
        engine.until(StopRequest(), time.time() - 1).all(abs, [(-1,)])
    assert engine.all(abs, [(-1,)]) == [1], "the engine of another command is not asked to stop"


def test_lookout(engine: Engine) -> None:
    """While calls run the driver looks up, and what that raises ends them."""

    def look_up() -> None:
        raise SourceError("seen")

    with closing(engine.each(time.sleep, [(60,)], claim=SMALL, look_up=look_up)) as calls:
        with pytest.raises(SourceError, match="seen"):
            next(calls)


def test_once(engine: Engine) -> None:
    """It gives the value, an error of ours as it was, and says that a process died or hung."""
    assert engine.once(operator.add, 3, 1, claim=SMALL, patience=60) == 4
    with pytest.raises(SpecError, match="nothing"):
        engine.once(parse_stage, {"kind": "nothing"}, claim=SMALL, patience=60)
    with pytest.raises(WorkerDied):
        engine.once(os._exit, 1, claim=SMALL, patience=60)
    with pytest.raises(WorkerDied):
        engine.once(time.sleep, 60, claim=SMALL, patience=0.2)


def test_capacity(engine: Engine) -> None:
    """It tells the two cores of the tests' Ray, joined like a cluster, or this machine's."""
    capacity = engine.capacity()
    if engine.name == "ray":
        assert (capacity.cores, capacity.cores_of_a_node, capacity.devices) == (2, 2, 0)
    else:
        assert 0 < capacity.cores == capacity.cores_of_a_node <= (os.cpu_count() or 1)
    assert capacity.elastic == (engine.name == "ray")
    assert min(capacity.memory, capacity.store) > 2**26


def test_kept() -> None:
    """The steps of a command get the engine that the first one opened."""
    planned = Planned(engine="local")
    with kept(session) as open_session, open_session(planned) as first, open_session(planned) as second:
        assert first is second

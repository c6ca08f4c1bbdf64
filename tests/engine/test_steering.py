"""What lets the driver look up between units: the feed, the request to stop, the watch."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from embed_ops.engine.feed import Feed
from embed_ops.engine.stopping import StopRequest, restored_sigterm
from embed_ops.engine.watch import DEATHS_PER_REPLICA, LEAST_DEATHS, SLACK_S, Pool, Watch


def drain(feed: Feed[int]) -> list[int]:
    """Take everything."""
    found = []
    while True:
        try:
            item = feed.take(0.01)
        except StopIteration:
            return found
        if item is not None:
            found.append(item)


def test_feed_gives_all_in_order() -> None:
    """Every item comes once, in order, and a slow iterator gives None meanwhile."""

    def slowly() -> Iterator[int]:
        yield 1
        time.sleep(0.1)
        yield from range(2, 3000)

    with Feed(slowly) as feed:
        assert [item for item in (feed.take(1.0), feed.take(0.001)) if item is not None] == [1]
        assert drain(feed) == list(range(2, 3000))


def test_feed_raises_what_the_iterator_raises() -> None:
    """An error of the iterator reaches the taker, behind the items before it."""

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with Feed(broken) as feed:
        assert feed.take(5.0) == 1
        with pytest.raises(ValueError, match="broken"):
            feed.take(5.0)


@pytest.mark.parametrize("full", [False, True])
def test_feed_can_be_left(full: bool) -> None:
    """Leaving ends an iterator that waits, or whose items nobody takes; its `finally` runs."""
    ended = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                if full:
                    yield 1
                else:
                    time.sleep(0.01)
        finally:
            ended.set()

    with Feed(endless):
        time.sleep(0.05)
    assert ended.wait(5.0)


def test_sigterm_asks_and_then_interrupts() -> None:
    """The first SIGTERM asks, the second interrupts; afterwards the signal has its old handler."""
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest(grace_s=0.05)
    with restored_sigterm():
        stop.listen()
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        assert not stop.expired
        time.sleep(0.1)
        assert stop.expired
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_watch_lets_work_go_on() -> None:
    """A unit, a pulse that changes, or a replica that starts is a sign of life.

    Other clocks do not matter.
    """
    watch = Watch(hang_seconds=100, replicas=2, since=0.0)
    patience = 100 + SLACK_S
    assert watch.judge({"a": "1"}, Pool(alive=2), patience) is None
    assert watch.judge({"a": "2"}, Pool(alive=2), 2 * patience) is None
    assert watch.judge({"a": "2"}, Pool(alive=1, waiting=1, deaths=1), 3 * patience) is None
    watch.came_through(4 * patience)
    assert watch.judge({"a": "2"}, Pool(alive=1, waiting=1, deaths=1), 5 * patience) is None
    assert "nothing has moved" in str(
        watch.judge({"a": "2"}, Pool(alive=1, waiting=1, deaths=1), 5 * patience + 1)
    )


def test_watch_says_what_is_wrong() -> None:
    """A pool that is never placed, and one that dies on everything, each have their sentence."""
    watch = Watch(hang_seconds=100, replicas=1, since=0.0)
    watch.judge({}, Pool(waiting=1), 0.0)
    why = watch.judge({}, Pool(waiting=1), 1000.0)
    assert why is not None
    assert "1 wait for a place" in why
    assert "no room for a replica" in why
    dying = Watch(hang_seconds=100, replicas=10, since=0.0)
    assert dying.judge({}, Pool(alive=10, deaths=LEAST_DEATHS), 1.0) is None
    why = dying.judge({}, Pool(alive=10, deaths=10 * DEATHS_PER_REPLICA, cause="boom"), 2.0)
    assert why == f"replicas died {10 * DEATHS_PER_REPLICA} times and no unit came through; the first: boom"
    fine = Watch(hang_seconds=100, replicas=1, since=0.0)
    fine.came_through(1.0)
    assert fine.judge({}, Pool(alive=1, deaths=1000), 2.0) is None

"""How isolation narrows suspects down: every row that kills is found, and no other is refused."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from embed_ops.embedding.suspects import Death, Findings, Step, learn
from embed_ops.schema import Reason


def child(batches: list[list[int]], deadly: set[int], together: set[int], findings: Findings) -> Death | None:
    """Embed as a child does.

    `deadly` rows kill alone, those of `together` when all of them are in one batch.
    """

    def kills(rows: list[int]) -> bool:
        left = set(rows) - findings.inputs.keys()
        return bool(left & deadly) or (len(together) > 1 and together <= left)

    for group in list(findings.trials):
        if kills(group):
            return Death(Step.TRIAL, group, Reason.CRASHED, "died")
        findings.trials.popleft()
        findings.fruitless = 0
    for batch in batches:
        if kills(batch):
            return Death(Step.BATCH, batch, Reason.CRASHED, "died")
        findings.fruitless = 0
    return None


@settings(max_examples=300, deadline=None)
@given(some.data())
def test_finds_the_rows_and_no_others(data: Any) -> None:
    """Whatever rows kill, in however many batches, they are refused after few deaths.

    All others are embedded.
    """
    sizes = data.draw(some.lists(some.integers(1, 40), min_size=1, max_size=5))
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    batches = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    rows = sum(sizes)
    deadly = set(data.draw(some.lists(some.integers(0, rows - 1), max_size=4)))
    findings, halved, deaths = Findings(), set[tuple[int, ...]](), 0
    while (death := child(batches, deadly, set(), findings)) is not None:
        learn(findings, death, halved)
        deaths += 1
        assert deaths < 100
    assert findings.inputs == dict.fromkeys(deadly, Reason.CRASHED)
    assert deaths <= len(deadly) * (max(sizes).bit_length() + 2)


def test_rows_that_kill_only_together() -> None:
    """Rows that kill together and not apart are refused together.

    Once halving has shown nothing.
    """
    findings, halved, deaths = Findings(), set[tuple[int, ...]](), 0
    while (death := child([[0, 1, 2, 3], [4, 5]], set(), {1, 2}, findings)) is not None:
        learn(findings, death, halved)
        deaths += 1
        assert deaths < 10
    assert {1, 2} <= findings.inputs.keys() <= {0, 1, 2, 3}

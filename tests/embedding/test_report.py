"""Where the time went: shares that add up, and the remedy for the worst of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from embed_ops.analysis.run_table import report_rows, where_time_went
from embed_ops.embedding.machine import command, machine
from embed_ops.embedding.report import Measured, build_report
from embed_ops.embedding.unit import ForwardPass, Written
from embed_ops.runs.record import HALVED, Record

RATE = 100.0
"""Matrix-product rate of a replica, FLOP/s."""


def measured(**parts: Any) -> Measured:
    """Measure two replicas that computed for 8 of 10 seconds each, half of it useful."""
    found = Measured(replicas=2, startup=1.0)
    for number in range(2):
        seconds = {
            "started": 0.0,
            "finished": 10.0,
            "forward": 8.0,
            "idle_input": 1.0,
            "idle_output": 0.5,
            "read": 0.1,
        }
        values = {"rows": 10, "tokens": 90, "positions": 100, "flops": 400.0, "seconds": seconds, **parts}
        record = Record.parse({**asdict(blank(f"a.{number:012d}")), **values})
        forward = ForwardPass(replica=str(number), gemm=RATE, busy=8.0)
        found.add(Written(record, "", {}, forward))
    return found


def blank(unit: str) -> Record:
    """Make a record of an empty unit."""
    return Record(unit, "attempt", [], None, None, 0, 0, 0, 0, 0, "")


def test_shares_add_up() -> None:
    """Shares of the replicas' time add up to all of it.

    Useful work, padding, the rest of the forward pass, both kinds of waiting, the uneven rest.
    """
    found = measured()
    report = build_report(found.records, found, 11.0, {})
    assert report["time"] == pytest.approx(
        {
            "useful": 0.4,
            "padding": 0.4 / 9,
            "forward": 0.4 - 0.4 / 9,
            "input": 0.1,
            "output": 0.05,
            "uneven": 0.05,
        }
    )
    assert report["utilization"] == pytest.approx(0.4)


def test_each_replica_has_its_own_shares() -> None:
    """It is divided like the time of all; of one that died early the rest is uneven."""
    found = measured()
    late = Record.parse({**asdict(found.records[0]), "unit": "b.0", "rows": 5, "flops": 100.0})
    late = Record.parse({**asdict(late), "seconds": {**late.seconds, "forward": 2.0, "idle_output": 0.0}})
    found.add(Written(late, "", {}, ForwardPass(replica="2", gemm=RATE, busy=2.0)))
    each = build_report(found.records, found, 11.0, {})["by_replica"]
    assert [(one["replica"], one["units"], one["rows"]) for one in each] == [
        ("0", 1, 10),
        ("1", 1, 10),
        ("2", 1, 5),
    ]
    assert each[0]["time"] == pytest.approx(build_report(found.records[:2], measured(), 11.0, {})["time"])
    assert each[2]["time"]["uneven"] == pytest.approx(0.7)
    assert all(sum(one["time"].values()) == pytest.approx(1.0) for one in each)
    # Without rates there is nothing to divide by.
    assert build_report([], Measured(), 1.0, {})["by_replica"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/usr/bin/embed-ops", "embed", "run.toml"], "embed-ops embed run.toml"),
        (["/x/embed_ops/__main__.py", "run", "a b.toml"], "embed-ops run 'a b.toml'"),
        (["/x/jobs/embed.py", "run.toml"], "python -m jobs.embed run.toml"),
        (
            ["embed-ops", "embed", "source.path=s3://KEY:SECRET@bucket/in"],
            "embed-ops embed source.path=s3://redacted@bucket/in",
        ),
        (["notebook.py", "--token", "hf_abc"], None),
    ],
)
def test_the_command_is_kept_without_secrets(
    words: list[str], told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one would type it again; of another program nothing is kept."""
    monkeypatch.setattr("sys.argv", words)
    assert command() == told
    assert machine()["cores"] >= 1


@pytest.mark.parametrize(
    ("parts", "remedy"),
    [
        ({}, "token_budget"),
        ({"flops": 760.0}, "more CPUs for readers"),
        ({"tokens": 50, "flops": 400.0}, "unit_rows gives batches of more equal length"),
    ],
)
def test_the_worst_share_has_a_remedy(parts: dict[str, Any], remedy: str) -> None:
    """The line names what would help most."""
    found = measured(**parts)
    assert remedy in where_time_went(build_report(found.records, found, 11.0, {}))


def test_a_start_longer_than_the_work_is_told() -> None:
    """Small jobs are told that starting is what they pay for."""
    found = measured()
    found.startup = 12.0
    assert "starting took longer" in where_time_went(build_report(found.records, found, 23.0, {}))


def test_halved_batches_are_told() -> None:
    """Running out of memory does not stay hidden."""
    found = measured(flags=(HALVED,))
    resolved = {"dtype": "float32", "compile": False, "token_budget": 64, "threads_per_replica": 1}
    rows = dict(report_rows(build_report(found.records, found, 11.0, resolved)))
    assert rows["out of memory"].startswith("2 units")
    assert rows["computed in"] == "float32, by 2 copies of the model"


def test_a_small_run_is_told_in_few_and_plain_words() -> None:
    """What was nothing is left out, and what would make a run faster is for those that last."""
    found = measured(truncated=3)
    resolved = {"dtype": "float32"}
    report = build_report(found.records, found, 11.0, resolved)
    rows = dict(report_rows(report))
    assert list(rows) == ["rows", "time", "speed", "computed in"]
    assert rows["rows"] == "20 embedded, 0 rejected, 6 cut to the length that the model takes"
    assert rows["time"] == "11 s: 1.0 s to start, 10 s to embed"
    report["seconds"]["steady"] = 61.0
    assert {"utilization", "where time went"} <= dict(report_rows(report)).keys()
    # Of a command that found all done, the rates are those of an earlier one.
    report |= {"units_skipped": report["units"]}
    rows = dict(report_rows(report))
    assert list(rows) == ["rows", "done before", "time"]
    assert (rows["done before"], rows["time"]) == ("all of it, by an earlier command", "11 s")
    # Images have no tokens.
    report |= {"units_skipped": 1, "modality": "image"}
    rows = dict(report_rows(report))
    assert rows["done before"] == "1 of 2 files in data/, by an earlier command"
    assert rows["speed"] == "2 images/s"


def test_nothing_embedded_has_no_shares() -> None:
    """A run that had nothing left to do tells no rates."""
    assert build_report([], Measured(), 1.0, {})["time"] is None

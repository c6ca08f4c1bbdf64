"""The report: every figure of a run, from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from embed_ops.embedding.unit import Written
from embed_ops.runs.record import HALVED, ISOLATED, Record
from embed_ops.sources.corpus import Corpus


@dataclass
class Measured:
    """What one attempt measured, record by record.

    Attributes:
        replicas: most that ran at once.
        startup: seconds from the command to the first unit in a replica.
        gemm: best matrix-product rate of each replica, FLOP/s.
        memory: greatest resident bytes by kind of process; `gpu`: of a replica on its GPU.
        devices: names of what computed.
        busy: seconds in which devices computed.
        parity: the comparison with the reference, by output.
        deaths: times that a replica died.
        graph: figures of a graph's layers.
    """

    records: list[Record] = field(default_factory=list)
    spans_read: int = 0
    replicas: int = 0
    startup: float | None = None
    gemm: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    busy: float = 0.0
    parity: list[dict[str, Any]] = field(default_factory=list)
    deaths: int = 0
    graph: dict[str, Any] | None = None

    def add(self, written: Written) -> None:
        """Take in one unit."""
        self.records.append(written.record)
        forward = written.forward
        self.gemm[forward.replica] = forward.gemm
        self.busy += forward.busy
        if forward.device:
            self.devices.add(forward.device)
        for kind, size in written.memory.items():
            self.memory[kind] = max(size, self.memory.get(kind, 0))

    def sum(self, name: str) -> float:
        """Add up one figure over the records."""
        return float(sum(getattr(record, name) for record in self.records))

    def seconds(self, name: str) -> float:
        """Add up the seconds of one part over the records."""
        return float(sum(record.seconds.get(name, 0.0) for record in self.records))

    @property
    def steady(self) -> float:
        """Seconds from the first unit in to the last unit out."""
        if not self.records:
            return 0.0
        begins = [record.seconds["started"] for record in self.records]
        return max(record.seconds["finished"] for record in self.records) - min(begins)


def _time_shares(measured: Measured, gemm: float | None, replicas: int) -> dict[str, float] | None:
    """Divide the replicas' time between the first unit in and the last unit out.

    Shares add up to 1.

    `useful`: what the run's operations would take at the device's matrix-product rate. `padding`:
    the same for positions without a token. `forward`: the rest of the forward passes. `input`,
    `output`: waiting for a unit, or for room behind. `uneven`: the rest, when some replica had
    begun late or was done early.
    """
    whole, busy = replicas * measured.steady, measured.seconds("forward")
    tokens, positions = measured.sum("tokens"), measured.sum("positions")
    if not gemm or not whole or not tokens:
        return None
    useful = min(busy, measured.sum("flops") * replicas / gemm)
    padding = min(busy - useful, useful * (positions - tokens) / tokens)
    seconds = {
        "useful": useful,
        "padding": padding,
        "forward": busy - useful - padding,
        "input": measured.seconds("idle_input"),
        "output": measured.seconds("idle_output"),
    }
    shares = {name: value / whole for name, value in seconds.items()}
    return shares | {"uneven": max(0.0, 1.0 - sum(shares.values()))}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def count_units(done: Sequence[Record], measured: Measured) -> dict[str, Any]:
    """Count what the whole run holds, and what this attempt had to do for it."""
    return {
        "rows": sum(record.rows for record in done),
        "rejected": sum(record.rejects for record in done),
        "file_rejects": sum(record.file_rejects for record in done),
        "filtered": sum(record.filtered for record in done),
        "truncated": sum(record.truncated for record in done),
        "unknown": sum(record.unknown for record in done),
        "tokens": sum(record.tokens for record in done),
        "flops": sum(record.flops for record in done),
        "units": len(done),
        "units_skipped": len(done) - len(measured.records),
        "spans_read": measured.spans_read,
    }


def left_out(corpus: Corpus) -> list[dict[str, Any]]:
    """Tell what the source's listing saw and did not take: why, how many files, the first names."""
    return [{**asdict(item), "names": list(item.names)} for item in corpus.left_out]


def build_report(
    done: Sequence[Record], measured: Measured, total_s: float, resolved: Mapping[str, Any]
) -> dict[str, Any]:
    """Make `report.json`.

    Counts are over the whole run, rates over what this attempt embedded: null where it had nothing
    to do.

    Args:
        done: records of all units of the run, in order.
        measured: what this attempt did.
        total_s: seconds from the command to now.
        resolved: the settings that "auto" became.
    """
    steady = measured.steady
    replica_time = sum(measured.seconds(name) for name in ("forward", "idle_input", "idle_output"))
    flops_per_second = _ratio(measured.sum("flops"), steady)
    # A replica that was replaced has measured too: the rate of one, times as many as ran at once.
    replicas = min(len(measured.gemm), measured.replicas) or len(measured.gemm)
    gemm = replicas * sum(measured.gemm.values()) / len(measured.gemm) if measured.gemm else None
    return {
        **count_units(done, measured),
        "seconds": {
            "total": total_s,
            "startup": measured.startup,
            "steady": steady,
            **{name: measured.seconds(name) for name in ("read", "prepare", "forward", "write")},
        },
        "rows_per_second": _ratio(measured.sum("rows"), steady),
        "tokens_per_second": _ratio(measured.sum("tokens"), steady),
        "padding_waste": _ratio(
            measured.sum("positions") - measured.sum("tokens"), measured.sum("positions")
        ),
        "flops_per_second": flops_per_second,
        "gemm_flops_per_second": gemm,
        "utilization": flops_per_second / gemm if flops_per_second and gemm else None,
        "idle": {
            "input": _ratio(measured.seconds("idle_input"), replica_time),
            "output": _ratio(measured.seconds("idle_output"), replica_time),
            "host": _ratio(max(0.0, measured.seconds("forward") - measured.busy), replica_time),
        },
        "devices": sorted(measured.devices),
        "time": _time_shares(measured, gemm, replicas),
        "replicas": replicas,
        "halved": sum(HALVED in record.flags for record in measured.records),
        "isolated": sum(ISOLATED in record.flags for record in measured.records),
        "replica_deaths": measured.deaths,
        "parity": measured.parity,
        **({} if measured.graph is None else {"graph": measured.graph}),
        "peak_memory": measured.memory,
        "resolved": dict(resolved),
    }

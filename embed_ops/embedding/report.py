"""The report: every figure of a run, from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from embed_ops.embedding.unit import Written
from embed_ops.runs.record import HALVED, ISOLATED, Record
from embed_ops.sources.corpus import Corpus


@dataclass
class ReplicaTimes:
    """What one replica did: its units and rows, and what its time is divided by.

    Attributes:
        gemm: its best matrix-product rate, FLOP/s.
        forward, input, output: seconds of forward passes, and of waiting.
        flops, tokens, positions: of its units.
    """

    units: int = 0
    rows: int = 0
    gemm: float = 0.0
    forward: float = 0.0
    input: float = 0.0
    output: float = 0.0
    flops: float = 0.0
    tokens: int = 0
    positions: int = 0

    def add(self, record: Record, gemm: float) -> None:
        """Take in a unit that it embedded."""
        self.units += 1
        self.rows += record.rows
        self.gemm = gemm
        self.forward += record.seconds.get("forward", 0.0)
        self.input += record.seconds.get("idle_input", 0.0)
        self.output += record.seconds.get("idle_output", 0.0)
        self.flops += record.flops
        self.tokens += record.tokens
        self.positions += record.positions

    def shares(self, whole: float, replicas: int = 1) -> dict[str, float] | None:
        """Divide `whole` seconds of so many replicas; None where there is nothing to divide by.

        Shares add up to 1.

        `useful`: what the operations would take at the device's matrix-product rate. `padding`: the
        same for positions without a token. `forward`: the rest of the forward passes. `input`,
        `output`: waiting for a unit, or for room behind. `uneven`: the rest, when some replica had
        begun late or was done early.
        """
        if not self.gemm or not whole or not self.tokens:
            return None
        useful = min(self.forward, self.flops * replicas / self.gemm)
        padding = min(self.forward - useful, useful * (self.positions - self.tokens) / self.tokens)
        seconds = {
            "useful": useful,
            "padding": padding,
            "forward": self.forward - useful - padding,
            "input": self.input,
            "output": self.output,
        }
        shares = {name: value / whole for name, value in seconds.items()}
        return shares | {"uneven": max(0.0, 1.0 - sum(shares.values()))}


@dataclass
class Measured:
    """What one attempt measured, record by record.

    Attributes:
        replicas: most that ran at once.
        startup: seconds from the command to the first unit in a replica.
        gemm: best matrix-product rate of each replica, FLOP/s.
        times: what each replica did, by its name.
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
    times: dict[str, ReplicaTimes] = field(default_factory=dict)
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
        if forward.replica:
            self.times.setdefault(forward.replica, ReplicaTimes()).add(written.record, forward.gemm)
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
    """Divide the time of all replicas between the first unit in and the last unit out."""
    every = ReplicaTimes(gemm=gemm or 0.0)
    for record in measured.records:
        every.add(record, every.gemm)
    return every.shares(replicas * measured.steady, replicas)


def _by_replica(measured: Measured) -> list[dict[str, Any]]:
    """Divide the time of each replica, by its name; empty where nothing was measured."""
    told = []
    for name, times in sorted(measured.times.items()):
        if (shares := times.shares(measured.steady)) is not None:
            told.append({"replica": name, "units": times.units, "rows": times.rows, "time": shares})
    return told


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
        "by_replica": _by_replica(measured),
        "halved": sum(HALVED in record.flags for record in measured.records),
        "isolated": sum(ISOLATED in record.flags for record in measured.records),
        "replica_deaths": measured.deaths,
        "parity": measured.parity,
        **({} if measured.graph is None else {"graph": measured.graph}),
        "peak_memory": measured.memory,
        "resolved": dict(resolved),
    }

"""Metrics of a job at work, through Ray's own exporter: every node serves them to Prometheus.

They are for dashboards and alarms while a job runs; the figures that count are in the report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from ray.util.metrics import Counter, Gauge

from embed_ops.engine.progress import Totals
from embed_ops.engine.watch import Pool
from embed_ops.runs.record import Record

COUNTERS = {
    "embed_ops_rows_total": "rows embedded by this command",
    "embed_ops_tokens_total": "tokens of distinct inputs that went through the model",
    "embed_ops_rejects_total": "rows that became rejects",
    "embed_ops_units_total": "units that are done",
}
GAUGES = {
    "embed_ops_queue_units": "units still to do, about",
    "embed_ops_replicas": "replicas that are alive",
    "embed_ops_replicas_waiting": "replicas that wait for a place, or start anew",
    "embed_ops_replica_deaths": "times that a replica died, in this wave",
    "embed_ops_utilization": "useful FLOP/s over the replicas' matrix-product rate, since the first unit",
}
"""Names as Prometheus shows them, less Ray's own prefix `ray_`."""
_TAG = "run"
_log = logging.getLogger(__name__)


@dataclass
class Metrics:
    """The metrics of one command, tagged with its run directory."""

    run: str
    _counters: dict[str, Counter] = field(init=False)
    _gauges: dict[str, Gauge] = field(init=False)
    _rates: dict[str, float] = field(default_factory=dict)
    _flops: float = 0.0

    def __post_init__(self) -> None:
        """Register with Ray, which must have been started."""
        # Ray's exporter takes ASCII only: other characters of a path are escaped as in an address.
        self.run = "".join(sign if sign.isascii() else quote(sign) for sign in self.run)
        self._counters = {
            name: Counter(name, description=meaning, tag_keys=(_TAG,)) for name, meaning in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(name, description=meaning, tag_keys=(_TAG,)) for name, meaning in GAUGES.items()
        }

    def unit(self, record: Record, replica: str, gemm: float, totals: Totals) -> None:
        """Take in a unit that is done, by a replica with such a matrix-product rate in FLOP/s."""
        rejects = record.rejects + record.file_rejects
        for name, value in (
            ("rows", record.rows),
            ("tokens", record.tokens),
            ("rejects", rejects),
            ("units", 1),
        ):
            if value:
                counter = self._counters[f"embed_ops_{name}_total"]
                _tell(lambda counter=counter, value=value: counter.inc(value, {_TAG: self.run}))  # type: ignore[misc]
        self._rates[replica] = gemm
        self._flops += record.flops
        seconds = record.seconds["finished"] - totals.started
        if seconds > 0:
            self._set("utilization", self._flops / (seconds * sum(self._rates.values())))
        self._set("queue_units", max(0, totals.units_expected - totals.units))

    def pool(self, pool: Pool) -> None:
        """Take in how the replicas are."""
        self._set("replicas", pool.alive)
        self._set("replicas_waiting", pool.waiting)
        self._set("replica_deaths", pool.deaths)

    def _set(self, name: str, value: float) -> None:
        _tell(lambda: self._gauges[f"embed_ops_{name}"].set(value, {_TAG: self.run}))


def _tell(act: Callable[[], None]) -> None:
    """Hand a figure to the exporter: that it takes none must not end a job."""
    try:
        act()
    except Exception as error:
        _log.warning("no metrics are shown: %s", error)

"""Chaos: for two minutes replicas, workers, nodes and the driver are killed at random, seeded.

Then the run ends as if nothing had been.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings
from fatal_model import POISON, FatalModel
from nodes import Nodes, nodes_of
from test_faults import expect_all_but, quiet

from embed_ops import Run

CHAOS_S = 120.0
POISONED = 333
SEED = int(os.environ.get("CHAOS_SEED", "7"))
"""Which faults come in which order; when they strike depends on the machine all the same."""


class Chaos:
    """Kills, one thing at a time, and starts the same command again whenever it has ended early."""

    def __init__(self, nodes: Nodes, words: list[str]) -> None:
        self.nodes = nodes
        self.words = words
        self.random = random.Random(SEED)
        self.struck: Counter[str] = Counter()
        self.codes: list[int] = []
        self._last_node = 2
        self._command = nodes.embed(*words)

    @property
    def over(self) -> bool:
        """Whether the command has ended by itself."""
        return self._command.poll() is not None

    def strike(self) -> None:
        """Choose a fault and do it."""
        fault = self.random.choices(("replica", "worker", "node", "driver", "preemption"), (4, 3, 1, 1, 1))[0]
        if fault == "replica":
            self.struck[fault] += self._kill("ray::MapWorker")
        elif fault == "worker":
            self.struck[fault] += self._kill("ray::MapBatches", "ray::IDLE")
        elif fault == "node":
            self.nodes.do(f"kill {self._last_node}", f"killed node {self._last_node}")
            self._last_node += 1
            self.nodes.do("add", f"added node {self._last_node}")
            self.struck[fault] += 1
        else:
            self._command.send_signal(signal.SIGKILL if fault == "driver" else signal.SIGTERM)
            self.struck[fault] += 1
            if self.wait() != 0:
                self.go_on()

    def wait(self) -> int:
        """Wait for the command to end."""
        said = self._command.communicate()[0]
        self.codes.append(self._command.returncode)
        assert self._command.returncode in (0, 3, -signal.SIGKILL), said
        return self._command.returncode

    def go_on(self) -> None:
        """Run the same command again."""
        self._command = self.nodes.embed(*self.words)

    def _kill(self, *names: str) -> int:
        """Kill one of the processes with such names on these nodes; tell how many."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "environ"]):
            mine = (process.info["environ"] or {}).get("HOME") == self.nodes.env["HOME"]
            if mine and " ".join(process.info["cmdline"] or ()).startswith(names):
                found.append(process)
        for process in self.random.sample(found, min(1, len(found))):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return min(1, len(found))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_session")
def test_chaos(tmp_path: Path) -> None:
    """Random deaths of everything, with a row that kills besides.

    The bytes are those of a quiet run without that row.
    """
    fatal = FatalModel(tmp_path)
    texts = docstrings(400) * 3
    texts[POISONED] = POISON
    (tmp_path / "corpus").mkdir()
    for part in range(6):
        rows = texts[part * 200 : (part + 1) * 200]
        table = pa.table({"text": rows, "id": range(part * 200, part * 200 + len(rows))})
        pq.write_table(table, tmp_path / "corpus" / f"{part}.parquet")
    source = {"path": str(tmp_path / "corpus"), "column": "text", "keep": ["id"]}
    straight = quiet(
        fatal, source, tmp_path / "straight", resources__unit_rows=20, resources__token_budget=64
    )
    fatal.order("exit", slow=0.02)
    words = [
        f"source.path={tmp_path / 'corpus'}",
        "source.column=text",
        "source.keep=['id']",
        f"encoder.model={fatal.path}",
    ]
    words += [
        "encoder.trust_remote_code=true",
        "parity.rows=0",
        "resources.unit_rows=20",
        "resources.token_budget=64",
    ]
    words += [
        f"sink.path={tmp_path / 'run'}",
        "resources.replicas=[1, 3]",
        "resources.threads_per_replica=1",
        "max_reject_fraction=1.0",
    ]
    with nodes_of(3) as nodes:
        chaos = Chaos(nodes, words)
        until = time.monotonic() + CHAOS_S
        while time.monotonic() < until and not chaos.over:
            time.sleep(chaos.random.uniform(2.0, 6.0))
            chaos.strike()
        for _ in range(10):
            if chaos.wait() == 0:
                break
            chaos.go_on()
    assert chaos.codes[-1] == 0, chaos.codes
    assert sum(chaos.struck.values()) >= 5, f"hardly anything was killed: {chaos.struck}"
    run = Run(str(tmp_path / "run"))
    expect_all_but(run, straight, (POISONED,), "crashed")

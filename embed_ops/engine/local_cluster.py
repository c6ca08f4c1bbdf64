"""Several Ray nodes on one machine: for tests, and for trying out what a cluster does.

    python -m cluster.local --nodes 3 --cpus 1

prints the address for `--address` and stays until Ctrl-C. Lines typed meanwhile change the cluster:
`add`, `add gpu`, `kill 2`.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from ray.cluster_utils import Cluster

from embed_ops.engine.ray_session import no_usage_statistics, own_token
from embed_ops.terminal import PlainConsole

STORE_BYTES = 150 * 2**20
"""Object store of a node: all nodes share the machine's memory."""
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A dead node is noticed in seconds. Ray's defaults are for networks and take half a minute."""


class LocalCluster:
    """Nodes of one cluster on this machine, numbered from 0, the head."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes: list[Any] = [cluster.head_node]

    @property
    def address(self) -> str:
        """What `--address` takes."""
        address: str = self._cluster.address
        return address

    def add(self, cpus: int = 1, gpus: int = 0) -> int:
        """Start a node that says it has so many CPUs and GPUs, and give its number.

        Returns when the cluster knows it. Works in the main thread only: Ray sets signal handlers.
        """
        self._nodes.append(
            self._cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=STORE_BYTES)
        )
        return len(self._nodes) - 1

    def kill(self, number: int) -> None:
        """Kill the raylet of a node, and with it every worker there, as a machine that goes does.

        Raises:
            ValueError: there is no such node, it is dead already, or it is the head.
        """
        if number == 0:
            raise ValueError("node 0 is the head: without it there is no cluster")
        if not 0 < number < len(self._nodes) or self._nodes[number] is None:
            raise ValueError(f"no node {number}; alive: {', '.join(str(there) for there in self.alive())}")
        node, self._nodes[number] = self._nodes[number], None
        self._cluster.remove_node(node, allow_graceful=False)

    def alive(self) -> list[int]:
        """List the numbers of the nodes that have not been killed."""
        return [number for number, node in enumerate(self._nodes) if node is not None]


@contextmanager
def local_cluster(nodes: int = 3, cpus: int = 1) -> Iterator[LocalCluster]:
    """Start so many nodes of so many CPUs for the time of a `with`.

    At its end only their processes are stopped.

    They want a token, as every Ray of 2.60 does that `ray.init` starts: a new one goes to
    ~/.ray/auth_token where there is none. Everything else they write, and the note by which
    `--address auto` finds a cluster, is in a folder of their own.
    """
    no_usage_statistics()
    own_token()
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Sockets lie below this folder, and the system allows their paths 107 bytes.
    folder = tempfile.mkdtemp(prefix="n", dir="/tmp")
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    head = {
        "num_cpus": cpus,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        "_system_config": HEALTH_CHECKS,
    }
    cluster = None
    try:
        cluster = Cluster(initialize_head=True, head_node_args=head)
        started = LocalCluster(cluster)
        for _ in range(nodes - 1):
            started.add(cpus)
        yield started
    finally:
        if cluster is not None:
            cluster.shutdown()
        os.environ.pop("RAY_TMPDIR")
        if before is not None:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _obey(cluster: LocalCluster, line: str, cpus: int) -> str:
    """Do what a line says, and say what came of it."""
    match line.split():
        case ["add"]:
            return f"added node {cluster.add(cpus)}"
        case ["add", "gpu"]:
            return f"added node {cluster.add(cpus, gpus=1)}, which claims a GPU"
        case ["kill", number] if number.isdigit():
            try:
                cluster.kill(int(number))
            except ValueError as error:
                return str(error)
            return f"killed node {number}"
    return "write: add, add gpu, kill NUMBER, or press Ctrl-C to end"


def run(
    nodes: Annotated[int, typer.Option(min=1, help="nodes, the head included")] = 3,
    cpus: Annotated[
        int, typer.Option(min=1, help="CPUs that each node claims; may be more than the machine has")
    ] = 1,
) -> None:
    """Start several Ray nodes on this machine and keep them until Ctrl-C."""
    console = PlainConsole(soft_wrap=True)
    # A shell starts what it puts in the background with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), local_cluster(nodes, cpus) as cluster:
        console.print(f"--address {cluster.address}")
        console.print(
            f"{nodes} nodes of {cpus} CPU; write add, add gpu or kill NUMBER, or press Ctrl-C to end"
        )
        for line in sys.stdin:
            if line.strip():
                console.print(_obey(cluster, line, cpus))
        # No one types: stay until a signal.
        threading.Event().wait()

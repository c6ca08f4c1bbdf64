"""Several nodes: the same bytes as on one, and placement by resources.

Also when a node dies or joins in the middle.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import docstrings, write_parquet
from fatal_model import FatalModel
from nodes import ROOT, Nodes, nodes_of
from tiny_runs import contents

from embed_ops import Spec, embed
from embed_ops.runs.verify.run import verify

UNITS = 64
PATIENCE_S = 240
"""Seconds after which a command is asked where it stands. Alone on two cores it takes a fifth of
that."""


@pytest.fixture(scope="module")
def words(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Give a spec, but for sink and replicas: 64 slow units in eight files."""
    folder = tmp_path_factory.mktemp("nodes") / "corpus"
    write_parquet(folder, docstrings(400) * 8, files=8)
    given = [
        f"source.path={folder}",
        "source.column=text",
        "source.keep=['id']",
        f"encoder.model={tiny}",
        "parity.rows=0",
    ]
    return [*given, "resources.unit_rows=50", "resources.token_budget=1", "resources.threads_per_replica=1"]


@pytest.fixture(scope="module")
def on_one_node(
    ray_session: None, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Give the bytes of a run on one node."""
    run = tmp_path_factory.mktemp("one") / "run"
    embed(Spec.load(None, [*words, f"sink.path={run}", "resources.replicas=1"]))
    found = contents(run)
    assert len(found) == UNITS
    return found


def wait_for(run: Path, process: subprocess.Popen[str], units: int) -> None:
    """Wait until so many units stand whole."""
    while sum(1 for _ in (run / "data").rglob("*.parquet")) < units and process.poll() is None:
        time.sleep(0.02)


def embedding_hosts(nodes: Nodes) -> int:
    """Count the nodes on which replicas live."""
    # The state API would need a dashboard.
    program = """
from ray._private.state import actors
alive = actors(actor_state_name="ALIVE").values()
print("nodes", len({actor["Address"]["NodeID"] for actor in alive if "Replica" in actor["ActorClassName"]}))
"""
    return int(nodes.ask(program).split("nodes ")[1])


def finished(process: subprocess.Popen[str], run: Path) -> dict[str, object]:
    """Wait for the end, prove the run, and give its report.

    A command that does not end says where its threads are.
    """
    try:
        said = process.communicate(timeout=PATIENCE_S)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        said = process.communicate()[0]
    assert process.returncode == 0, said
    assert verify(str(run), source=True).differences == []
    report: dict[str, object] = json.loads((run / "report.json").read_text())
    return report


@pytest.mark.slow
@pytest.mark.parametrize("another_joins", [True, False])
def test_a_node_dies(
    another_joins: bool, words: list[str], on_one_node: dict[str, bytes], tmp_path: Path
) -> None:
    """Each node has a replica and one dies with units in flight.

    The run ends with the bytes of one node, whether or not another joins.
    """
    run = tmp_path / "run"
    with nodes_of(3) as nodes:
        process = nodes.embed(*words, f"sink.path={run}", "resources.replicas=3")
        wait_for(run, process, 3)
        nodes.do("kill 2", "killed node 2")
        assert process.poll() is None, process.communicate()[0]
        if another_joins:
            nodes.do("add", "added node 3")
        finished(process, run)
    assert contents(run) == on_one_node


@pytest.mark.slow
def test_three_nodes(words: list[str], on_one_node: dict[str, bytes], tmp_path: Path) -> None:
    """Law 3 over nodes: three replicas write what one wrote.

    Each claims three quarters of a CPU, so they are on three nodes.
    """
    with nodes_of(3) as nodes:
        process = nodes.embed(*words, f"sink.path={tmp_path / 'run'}", "resources.replicas=3")
        assert finished(process, tmp_path / "run")["replicas"] == 3
    assert contents(tmp_path / "run") == on_one_node


@pytest.mark.slow
def test_a_late_node_is_used(ray_session: None, tmp_path: Path) -> None:
    """With replicas = [1, 3], nodes that join get replicas, and the bytes are those of one node."""
    fatal = FatalModel(tmp_path)
    write_parquet(tmp_path / "corpus", docstrings(400) * 3, files=8)
    words = [
        f"source.path={tmp_path / 'corpus'}",
        "source.column=text",
        f"encoder.model={fatal.path}",
        "parity.rows=0",
    ]
    words += [
        "resources.unit_rows=25",
        "resources.token_budget=64",
        "resources.threads_per_replica=1",
        "encoder.trust_remote_code=true",
    ]
    embed(Spec.load(None, [*words, f"sink.path={tmp_path / 'one'}", "resources.replicas=1"]))
    fatal.order(slow=0.1)
    run = tmp_path / "run"
    with nodes_of(1) as nodes:
        process = nodes.embed(*words, f"sink.path={run}", "resources.replicas=[1, 3]")
        wait_for(run, process, 2)
        for number in (1, 2):
            nodes.do("add", f"added node {number}")
        most = 0
        while process.poll() is None and most < 2:
            most = max(most, embedding_hosts(nodes))
        finished(process, run)
    assert most >= 2, "the nodes that joined late got nothing to do"
    assert contents(run) == contents(tmp_path / "one")


@pytest.mark.slow
def test_tokens(words: list[str], tmp_path: Path) -> None:
    """A session brings its token where one is asked for, and leaves the cluster as it was.

    A wrong token is named in one sentence.
    """
    with nodes_of(1) as nodes:
        for _ in range(2):
            assert nodes.ask("print('joined')") == "joined\n"
        nodes.env["RAY_AUTH_TOKEN"] = "0" * 64
        process = nodes.embed(*words, f"sink.path={tmp_path / 'run'}", "resources.replicas=1")
        said = process.communicate()[0]
    assert process.returncode == 3
    assert "refuses this machine's authentication token" in said
    assert "Traceback" not in said


def test_no_cluster_there(words: list[str], tmp_path: Path) -> None:
    """The command ends with 3 where nothing answers, with 2 where the address can't be meant."""
    for address, code, sentence in (
        ("127.0.0.1:1", 3, "no Ray cluster answers there"),
        ("http://head:8265", 2, "embed-ops submit"),
    ):
        line = [
            sys.executable,
            "-m",
            "embed_ops",
            "embed",
            *words,
            f"sink.path={tmp_path / 'run'}",
            "--address",
            address,
        ]
        done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True, check=False)
        assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_placed_by_resources() -> None:
    """A replica with a GPU is placed on the node that has one, and a reader anywhere.

    The machine has no GPU and the node only says so: real actors and tasks with the pipeline's own
    requests, but no model.
    """
    program = """
from embed_ops.embedding.resources import READER_CPUS, replica_claim
from embed_ops.engine.ray_tasks import RayEngine, ray_options
capacity = RayEngine(elastic=True).capacity()
asked = ray_options(replica_claim(capacity, threads=1, gpus=1.0))
gpu_nodes = {node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU")}
where = lambda: ray.get_runtime_context().get_node_id()
class Replica:
    def where(self): return ray.get_runtime_context().get_node_id()
replica = ray.remote(**asked)(Replica).remote()
second = ray.remote(**asked)(Replica).remote()
reader = ray.remote(num_cpus=READER_CPUS)(where)
readers = set(ray.get([reader.remote() for _ in range(40)], timeout=120))
placed = ray.get(replica.where.remote(), timeout=120)
ready, waiting = ray.wait([second.where.remote()], timeout=5)
print(json.dumps([len(gpu_nodes), placed in gpu_nodes, bool(readers), len(waiting)]))
"""
    with nodes_of(2) as nodes:
        nodes.do("add gpu", "added node 2")
        gpu_nodes, on_gpu, read, waiting = json.loads(nodes.ask(program).splitlines()[-1])
    assert (gpu_nodes, on_gpu, read) == (1, True, True)
    assert waiting == 1, "a second replica was placed although the only GPU was taken"

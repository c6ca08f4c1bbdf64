"""Metrics as Prometheus reads them from a node."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest
import ray

from embed_ops import Run
from embed_ops.metrics import COUNTERS, GAUGES


def scrape(run: str) -> dict[str, float]:
    """Read this run's metrics from the port that the node serves them on."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = (re.fullmatch(r"ray_(embed_ops_\w+)\{(.*)\} (\S+)", line) for line in lines)
    return {match[1]: float(match[3]) for match in found if match and f'run="{run}"' in match[2]}


def test_metrics(minilm_run: tuple[Run, list[str]]) -> None:
    """Rows, tokens, rejects, units, queue, replicas and utilisation of a run are served, and agree with its report."""
    run, _ = minilm_run
    expected = {"rows": run.report["rows"], "tokens": run.report["tokens"], "units": run.report["units"]}
    # Ray exports every ten seconds.
    for _ in range(60):
        found = scrape(run.header["spec"]["sink"]["path"])
        if found.get("embed_ops_rows_total") == expected["rows"]:
            break
        time.sleep(0.5)
    assert {name: found[f"embed_ops_{name}_total"] for name in expected} == expected
    assert found["embed_ops_utilization"] == pytest.approx(run.report["utilization"], rel=0.3)
    assert found["embed_ops_queue_units"] == 0
    named = {name for name in (*COUNTERS, *GAUGES) if name != "embed_ops_rejects_total"}
    assert named <= set(found)

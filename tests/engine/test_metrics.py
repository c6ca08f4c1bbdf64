"""Metrics as Prometheus reads them from a node."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from corpora import docstrings, write_parquet
from tiny_runs import tiny_spec

from embed_ops import embed
from embed_ops.engine.metrics import COUNTERS, GAUGES


def scrape(run: str) -> dict[str, float]:
    """Read this run's metrics from the port that the node serves them on."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = (re.fullmatch(r"ray_(embed_ops_\w+)\{(.*)\} (\S+)", line) for line in lines)
    return {match[1]: float(match[3]) for match in found if match and f'run="{run}"' in match[2]}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_metrics(tiny: str, tmp_path: Path) -> None:
    """Metrics of a run, wherever it lies, are served, and agree with its report."""
    write_parquet(tmp_path / "corpus", [*docstrings(60), ""], files=2)
    pq.write_table(
        pa.table({"text": pa.nulls(3, pa.string()), "id": range(3)}), tmp_path / "corpus" / "nulls.parquet"
    )
    run = embed(
        tiny_spec(
            tiny,
            {"path": str(tmp_path / "corpus"), "column": "text"},
            tmp_path / "läufe/1",
            max_reject_fraction=1.0,
        )
    )
    report = run.report
    expected = {"rows": 61, "rejects": 3, "tokens": report["tokens"], "units": report["units"]}
    # Ray exports every ten seconds.
    for _ in range(60):
        found = scrape(f"{tmp_path}/l%C3%A4ufe/1")
        if found.get("embed_ops_rows_total") == expected["rows"]:
            break
        time.sleep(0.5)
    assert {name: found[f"embed_ops_{name}_total"] for name in expected} == expected
    assert found["embed_ops_utilization"] == pytest.approx(report["utilization"], rel=0.5)
    assert found["embed_ops_queue_units"] == 0
    assert {*COUNTERS, *GAUGES} <= set(found)

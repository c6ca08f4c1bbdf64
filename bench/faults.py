"""The record of the injected faults.

What came of each, out of the report that pytest writes (`make test-all`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

from record import write_record

FAULTS = {
    "a driver that is killed, interrupted, terminated; a second command": ("test_kill", "test_heartbeat"),
    "replicas, workers and rows": ("test_faults", "test_isolation"),
    "nodes": ("test_nodes",),
    "everything at random": ("test_chaos",),
    "storage": ("test_object_store", "test_object_store_job"),
    "the hub and model stores": ("test_hub", "test_prefix", "test_weights_job"),
    "the job server": ("test_submit",),
    "memory and vectors": ("test_steps", "test_forward"),
}


def main() -> None:
    """Read a report and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="what pytest --junitxml=REPORT wrote")
    options = parser.parse_args()
    figures: dict[str, dict[str, str]] = {kind: {} for kind in FAULTS}
    of_module = {module: kind for kind, modules in FAULTS.items() for module in modules}
    # Our own pytest wrote it a moment ago.
    for case in ElementTree.parse(options.report).iter("testcase"):
        kind = of_module.get(case.get("classname", "").rpartition(".")[2])
        if kind is not None:
            outcome = next(
                (child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed"
            )
            figures[kind][case.get("name", "")] = f"{outcome}, {float(case.get('time', 0)):.1f} s"
    counts = {
        kind: sum(found.startswith("passed") for found in of_kind.values())
        for kind, of_kind in figures.items()
    }
    path = write_record("faults", {"tests": sum(map(len, figures.values())), "passed": counts}, figures)
    print(
        f"{sum(counts.values())} of {sum(map(len, figures.values()))} injected faults ended as they "
        f"should; record in {path}"
    )


if __name__ == "__main__":
    main()

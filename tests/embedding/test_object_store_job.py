"""The whole job with its source and its run directory in a store.

In one that fails now and then, and in one that fails for good.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpora import docstrings, write_bad, write_parquet
from faulty_s3 import BUCKET, FaultyS3, faulty_s3
from tiny_runs import contents

UNIT = "/data/part"


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultyS3]:
    """Start the store."""
    with faulty_s3() as started:
        yield started


def run(
    source: str, sink: str, model: str, *words: str, verb: str = "embed"
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does.

    It and its Ray take credentials and endpoint from the environment.
    """
    fields = [
        f"source.path={source}",
        "source.column=text",
        "source.keep=['id']",
        f"encoder.model={model}",
        f"sink.path={sink}",
    ]
    fields += [
        "resources.unit_rows=20",
        "resources.replicas=1",
        "parity.rows=0",
        "encoder.dtype=float32",
        "--progress",
        "plain",
        *words,
    ]
    line = [sys.executable, "-m", "embed_ops", verb, *(fields if verb == "embed" else [sink, *words])]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=dict(os.environ))


def stored(s3: FaultyS3, prefix: str) -> dict[str, bytes]:
    """Read the data and reject objects of a run."""
    found = {}
    for key in s3.objects(prefix + "/"):
        inside = key.removeprefix(prefix + "/")
        if inside.startswith(("data/", "rejects/")) and not inside.endswith("/"):
            found[inside] = s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return found


@pytest.mark.slow
def test_a_store_that_fails_now_and_then(s3: FaultyS3, tiny: str, tmp_path: Path) -> None:
    """Faults of every kind in every kind of request, a few in a row.

    The bytes are those of a quiet run on a disk.
    """
    write_parquet(tmp_path / "corpus", docstrings(200), files=2)
    s3.upload(tmp_path / "corpus", "often/corpus")
    quiet = run(str(tmp_path / "corpus"), str(tmp_path / "run"), tiny)
    assert quiet.returncode == 0, quiet.stderr
    injected = [
        *(
            s3.fail(kind, "GET", "list-type", times=3, skip=number)
            for number, kind in enumerate(("503", "reset"))
        ),
        *(
            s3.fail(kind, "GET", "corpus/part", times=3, skip=2 * number)
            for number, kind in enumerate(("500", "short", "cut", "lost"))
        ),
        *(
            s3.fail(kind, "PUT", UNIT, times=2, skip=number)
            for number, kind in enumerate(("503", "reset", "lost"))
        ),
        *(s3.fail(kind, "PUT", "run.json|manifest|plan", times=2) for kind in ("500", "reset")),
    ]
    address = f"s3://{BUCKET}/often"
    done = run(f"{address}/corpus", f"{address}/run", tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [fault.hits for fault in injected] == [fault.times for fault in injected]
    assert stored(s3, "often/run") == contents(tmp_path / "run")
    assert s3.objects("often/run/tmp") == {}
    checked = run("", f"{address}/run", "", "--source", verb="verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "method", "target"),
    [("403", "PUT", UNIT), ("503", "PUT", UNIT), ("503", "GET", "corpus/lang.*en/a.jsonl.zst")],
)
def test_a_store_that_fails_for_good(
    fault: str, method: str, target: str, s3: FaultyS3, tiny: str, tmp_path: Path
) -> None:
    """It ends with exit 3 and the cause, and nothing half-written is visible.

    The next run finishes with the same bytes.
    """
    prefix = f"never-{fault}-{method}"
    words = ("source.kind=jsonl", "max_reject_fraction=1.0")
    write_bad(tmp_path / "corpus", "jsonl", docstrings(60))
    s3.upload(tmp_path / "corpus", f"{prefix}/corpus")
    assert run(str(tmp_path / "corpus"), str(tmp_path / "run"), tiny, *words).returncode == 1
    address = f"s3://{BUCKET}/{prefix}"
    whole = contents(tmp_path / "run")
    target = target.replace("/data/part", "/data/")
    # After planning and some units, for good.
    s3.fail(fault, method, target, times=None, skip=5 if method == "PUT" else 0)
    failed = run(f"{address}/corpus", f"{address}/run", tiny, *words)
    s3.calm()
    assert failed.returncode == 3, failed.stdout + failed.stderr
    assert ("ACCESS_DENIED" if fault == "403" else "SLOW_DOWN") in failed.stderr + failed.stdout
    assert "mend the storage and run the same command again" in failed.stderr + failed.stdout
    left = stored(s3, f"{prefix}/run")
    assert left.items() < whole.items()
    assert (
        json.loads(s3.client().get_object(Bucket=BUCKET, Key=f"{prefix}/run/run.json")["Body"].read())[
            "status"
        ]
        == "stopped"
    )
    assert run(f"{address}/corpus", f"{address}/run", tiny, *words).returncode == 1
    assert stored(s3, f"{prefix}/run") == whole
    checked = run("", f"{address}/run", "", "--source", verb="verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr

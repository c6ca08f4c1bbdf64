"""Adds a family as docs/adding-an-encoder.md tells it, to a copy of the package, and embeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from guides import blocks, copy_package, insert, run_in

MODULE, LINE, SECTION, MEMBER, FINGERPRINT = blocks("adding-an-encoder.md")
TEXTS = ["abc", None, "b", "abc", "", "too long a text", "ünï"]
EMBED = """
import json, sys
import pyarrow as pa
from embed_ops.embedding.job import Job
from embed_ops.embedding.settings import fingerprint, resolve
from embed_ops.embedding.replica import Replica
from embed_ops.embedding.steps import read_and_prepare, write_unit
from embed_ops.runs.work import Work
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import locate

folder = sys.argv[1]
tree = {
    "source": {"path": folder + "/in", "column": "text"},
    "encoder": {"model": folder + "/table.npy", "family": "bytes", "most": 9},
    "sink": {"path": folder + "/run"},
}
spec = Spec.parse(tree)
corpus = Corpus.open(spec.source)
plan = corpus.plan()
job = Job(spec, locate(spec.sink.path), corpus.roots, plan.columns, resolve(spec), "f", "a-1")
replica = Replica(job)
(unit,) = read_and_prepare(job, Work(plan.spans[0]))
record = write_unit(replica.embed(unit), job).record
texts = json.loads(sys.argv[2])
name, expected = replica.encoder.reference(pa.array(texts, pa.string()))
print(json.dumps({
    "rows": record.rows, "rejects": record.rejects, "inputs": record.inputs,
    "reference": name, "expected": expected["embedding"].astype(float).tolist(),
    "fingerprint": {key: value for key, value in fingerprint(spec, {}).items() if "most" in key},
}))
"""


def test_the_family_of_the_guide(tmp_path: Path) -> None:
    """It embeds as its reference does, each text once, and rejects what it can't take."""
    package = copy_package(tmp_path / "copy")
    (package / "encoders/bytes").mkdir()
    (package / "encoders/bytes/__init__.py").write_text('"""Means of bytes. Read `encoder.py` first."""\n')
    (package / "encoders/bytes/encoder.py").write_text(MODULE, encoding="utf-8")
    insert(package / "encoders/registry.py", '    "graph": ', LINE, 4)
    insert(package / "spec/encoder.py", "AnyEncoder = ", SECTION + "\n\n")
    insert(package / "spec/encoder.py", '    | Annotated[GraphEncoderSpec, Tag("graph")]', MEMBER, 4)
    settings = package / "embedding/settings.py"
    insert(settings, "_SOURCE_FIELDS = ", "from embed_ops.spec.encoder import BytesEncoderSpec\n")
    insert(settings, '    return entries | {f"model', FINGERPRINT, 4)
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": pa.array(TEXTS, pa.string())}), tmp_path / "in/a.parquet")
    np.save(tmp_path / "table.npy", np.random.default_rng(1).normal(size=(256, 8)).astype(np.float32))
    answer = run_in(package, EMBED, str(tmp_path), json.dumps(TEXTS))
    assert (answer["rows"], answer["rejects"], answer["inputs"]) == (4, 3, 3)
    assert answer["fingerprint"] == {"encoder.most": 9}
    (file,) = (tmp_path / "run/data").rglob("*.parquet")
    vectors = np.stack(pq.read_table(file).column("embedding").to_pylist())
    kept = [0, 2, 3, 6]
    np.testing.assert_allclose(vectors, np.array(answer["expected"])[kept], rtol=1e-6)
    assert np.isnan(np.delete(np.array(answer["expected"], float), kept, axis=0)).all()

"""An adapter through the job: named, or in the model's place; another one is another run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from corpora import docstrings, write_parquet
from tiny_models import build
from tiny_runs import contents, tiny_spec
from transformers import AutoModel

from embed_ops import Encoder, Run, Spec, embed, neighbors
from embed_ops.errors import RunError
from embed_ops.runs.verify.run import verify


def save_adapter(base: Path, place: Path, seed: int) -> None:
    """Save a LoRA that changes a model."""
    config = peft.LoraConfig(r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(AutoModel.from_pretrained(base), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)
    model.save_pretrained(str(place))


@pytest.mark.usefixtures("engine")
def test_laws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same bytes either way it is named, from any folder; what is lost comes back."""
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "corpus", docstrings(80), files=2)
    base = build("bert", tmp_path / "base")
    save_adapter(Path("base"), tmp_path / "lora", 3)
    save_adapter(Path("base"), tmp_path / "other", 4)

    def spec_of(run: str, model: str = "lora", **fields: str) -> Spec:
        source = {"path": str(tmp_path / "corpus"), "column": "text", "keep": ["id"]}
        asked = {"parity__rows": 8, "encoder__dtype": "float32", "resources__unit_rows": 20}
        return tiny_spec(model, source, tmp_path / run, **(asked | fields))

    run = embed(spec_of("run"))
    assert run.report["parity"][0]["min"] > 0.99999
    assert "with peft" in run.report["parity"][0]["reference"]
    header = Run(run.path).header
    assert (header.spec["encoder"]["model"], header.spec["encoder"]["adapter"]) == (
        str(base),
        str(tmp_path / "lora"),
    )
    named = embed(spec_of("named", "base", encoder__adapter="lora"))
    assert contents(Path(named.path)) == contents(Path(run.path))
    next((Path(run.path) / "data").rglob("*.parquet")).unlink()
    embed(spec_of("run"))
    assert contents(Path(named.path)) == contents(Path(run.path))
    assert verify(run.path, source=True).ok
    monkeypatch.chdir("/")
    near = neighbors(run.path, docstrings(3)[2:3], k=1)
    assert near.ids.tolist() == [[2]]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="model adapter/adapter_model"):
        embed(spec_of("run", "base", encoder__adapter="other"))
    with pytest.raises(RunError, match="model"):
        embed(spec_of("run", "base"))
    vectors = Encoder("base", adapter="lora", threads=1).embed(docstrings(80))
    stored = np.array(run.open().to_table().sort_by("id").column("embedding").to_pylist(), np.float32)
    assert np.abs(vectors - stored).max() < 1e-5

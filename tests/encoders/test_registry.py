"""The registry of encoders: which class serves a family, and what a family takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from embed_ops.encoders.registry import ENCODERS, encoder_class, make_encoder, modality_of
from embed_ops.errors import SpecError
from embed_ops.spec.spec import Spec, parse_encoder


@pytest.mark.parametrize("family", list(ENCODERS))
def test_every_family_says_what_it_takes(family: str) -> None:
    """Token budgets are known for each device that it computes on, without a model."""
    spec: Any = SimpleNamespace(family=family, in_windows=False)
    on_gpus = parse_encoder({"family": family, "model": "m"}).GPUS != "never"
    takes = encoder_class(spec).takes
    assert takes
    devices = {"cpu", "cuda"} if on_gpus else {"cpu"}
    assert all(set(modality.token_budgets) == devices for modality in takes.values())
    assert all(modality.row_bytes > 0 for modality in takes.values())


def test_a_family_that_is_not_there() -> None:
    """The error names those that are."""
    spec: Any = SimpleNamespace(family="audio", in_windows=False)
    with pytest.raises(SpecError, match=r"'audio', which is none of text, words, static"):
        make_encoder(spec)


def test_a_modality_that_a_family_does_not_take() -> None:
    """The error names those that it takes."""
    spec = Spec.parse(
        {"source": {"path": "in", "column": "x"}, "encoder": {"model": "m"}, "sink": {"path": "out"}}
    )
    images = spec.model_copy(update={"source": spec.source.model_copy(update={"modality": "image"})})
    with pytest.raises(SpecError, match=r"'image', and family 'text' takes text"):
        modality_of(images)

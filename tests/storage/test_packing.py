"""Dataclasses as bytes: their names in files, and what is refused."""

from __future__ import annotations

import importlib
import pkgutil
import typing
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import pytest

import embed_ops.stages
from embed_ops.numerics.summaries import Moments
from embed_ops.storage import packing
from embed_ops.storage.packing import content_digest, pack, unpack

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(embed_ops.stages.__path__, "embed_ops.stages.")
]
BY_ROUNDS = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == module.__name__ and hasattr(kind, "summarize")
    if not getattr(kind, "_is_protocol", False)
]


@dataclass(frozen=True)
class Nameless:
    """A dataclass that no table names."""

    size: int


@pytest.mark.parametrize("name", packing._PACKED)
def test_names_lead_to_their_classes(name: str) -> None:
    """Each name stands for a frozen dataclass, which is defined where the table says."""
    kind = pkgutil.resolve_name(packing._PACKED[name])
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert f"{kind.__module__}:{kind.__qualname__}" == packing._PACKED[name]


@pytest.mark.parametrize("stage", BY_ROUNDS, ids=lambda stage: stage.__name__)
def test_what_a_stage_packs_has_a_name(stage: type[Any]) -> None:
    """The states, summaries and models that a stage declares can be packed."""
    declared = [
        typing.get_type_hints(getattr(stage, name))["return"] for name in ("start", "summarize", "model")
    ]
    classes = {part for hint in declared for part in typing.get_args(hint) or (hint,) if is_dataclass(part)}
    assert len(classes) >= 2
    for part in classes:
        home = f"{part.__module__}:{part.__qualname__}"
        names = [name for name, known in packing._PACKED.items() if known == home]
        own = f"{part.__module__.removeprefix('embed_ops.stages.')}.{part.__qualname__}"
        assert packing._class(*names or [own]) is part


def test_every_stage_is_looked_at() -> None:
    """The classes above are the stages that are fitted by rounds, more than a few."""
    assert len(BY_ROUNDS) >= 8
    assert all(kind.__name__.endswith("Stage") for kind in BY_ROUNDS)


def test_what_has_no_name_is_refused() -> None:
    """A class without a name is not written, and no file can name one that the table lacks."""
    with pytest.raises(TypeError, match="Nameless has no name in files"):
        pack(Nameless(3))
    moments = Moments.of(np.ones((2, 3), np.float32))
    content = pack(moments)
    assert pack(unpack(content)) == content
    assert content_digest(unpack(content)) == content_digest(moments)
    with pytest.raises(ValueError, match="Xoments is no dataclass that this version knows"):
        unpack(content.replace(b"Moments", b"Xoments"))

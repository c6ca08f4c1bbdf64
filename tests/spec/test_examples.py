"""The examples are specs that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from embed_ops import Spec

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_specs(path: Path) -> None:
    """Each example is a whole spec, and its name begins with its family."""
    assert path.name.startswith(Spec.load(path).encoder.family)

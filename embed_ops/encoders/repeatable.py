"""A model that gives other vectors for the same input each time is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embed_ops.encoders.base import FloatArray
from embed_ops.errors import ModelError

_TOLERANCE = 1e-2
"""Of the greatest value: kernels of a GPU may differ from one call to the next."""


def require_repeatable(model: str, first: Mapping[str, FloatArray], second: Mapping[str, FloatArray]) -> None:
    """Compare what two calls gave for the same inputs.

    Args:
        model: its name.
        first: {output: vectors}.
        second: of the same outputs.

    Raises:
        ModelError: they differ.
    """
    for name, vectors in first.items():
        scale = float(np.abs(vectors).max(initial=0.0))
        if np.abs(vectors - second[name]).max(initial=0.0) > _TOLERANCE * scale:
            raise ModelError(
                f"{model}: output {name!r} is another one for the same input each time, as with masking at "
                "random (mask_ratio) or dropout that stays on; choose another model"
            )

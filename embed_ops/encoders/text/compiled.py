"""A transformer's forward pass through torch.compile.

One graph for every shape, weights frozen into it.

The graph has other bits than the eager pass, but the same ones for any number of threads, any order
of the batches, and whether the compiler ran or its cache on disk was read. So that a batch's bits
never hang on which batches came before it, the graph is made from one fixed shape, and a batch that
it does not fit runs eagerly instead of adding a graph.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from embed_ops.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_WARM_UP = (4, 16)
"""Inputs and tokens of the batch that the graph is made from; any will do that has no dimension of
one."""


def compiler_missing(device: str) -> str | None:
    """Say what keeps this machine from compiling, None if nothing does.

    For CPUs torch writes C++. For GPUs Triton makes the kernels, and C code that calls them.
    """
    language, variable, usual = (
        ("C++", "CXX", ("g++", "clang++", "c++")) if device == "cpu" else ("C", "CC", ("gcc", "clang", "cc"))
    )
    asked = os.environ.get(variable)
    names = (asked,) if asked else usual
    if any(shutil.which(name) for name in names):
        return None
    return f"no {language} compiler ({', '.join(names)}) on this machine"


class CompiledModel:
    """The compiled twin of a loaded transformer.

    Raises:
        ModelError: the compiler is missing or gave up on this model.
    """

    def __init__(self, model: Any, name: str) -> None:
        import torch

        if missing := compiler_missing(model.device.type):
            raise ModelError(
                f"{name}: can't compile: {missing}; install one, or use encoder.compile=false in a new run"
            )
        # Weights frozen into the graph are held a second time: on a GPU that gains too little for
        # what it takes.
        compiler: Any = torch.compile
        self._call = compiler(model, dynamic=True, options={"freezing": model.device.type == "cpu"})
        ids = torch.zeros(_WARM_UP, dtype=torch.int64, device=model.device)
        try:
            with torch.inference_mode():
                self._call(input_ids=ids, attention_mask=torch.ones_like(ids))
        except Exception as error:  # the compiler raises what it likes
            reason = (str(error).splitlines() or [repr(error)])[0]
            raise ModelError(
                f"{name}: torch.compile gave up ({reason}); use encoder.compile=false in a new run"
            ) from error

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Give the last hidden states: (B, T), (B, T) -> (B, T, D)."""
        import torch

        rows = ids.shape[0]
        if rows == 1:
            # A dimension of one would need a graph of its own.
            ids, mask = ids.expand(2, -1), mask.expand(2, -1)
        stance: Any = torch.compiler.set_stance("eager_on_recompile")
        with stance:
            hidden: Tensor = self._call(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[:rows]

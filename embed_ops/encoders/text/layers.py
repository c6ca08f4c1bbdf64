"""Hidden states of chosen layers.

What `layer` of an output means, and a forward pass that keeps only those.

Layers are numbered as in transformers' `hidden_states`: 0 is the first block's input, `count` the
model's output. Legend: B inputs, T tokens of the longest input, D hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from embed_ops.errors import ModelError
from embed_ops.spec.encoder import LAYERS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Layers:
    """The layers of an output, by absolute number, and how they become one.

    `one`, `mean`, `sum` or `concat`.
    """

    how: str
    numbers: tuple[int, ...]

    @property
    def width(self) -> int:
        """How many times the hidden size the result has."""
        return len(self.numbers) if self.how == "concat" else 1

    def of(self, states: Mapping[int, Tensor]) -> Tensor:
        """Combine hidden states, {number: (B, T, D)}, to (B, T, D) or (B, T, D * layers).

        Sums are float32.
        """
        import torch

        chosen = [states[number] for number in self.numbers]
        if self.how == "one":
            return chosen[0]
        if self.how == "concat":
            return torch.cat(chosen, dim=-1)
        total = chosen[0].float()
        for state in chosen[1:]:
            total = total + state.float()
        return total / len(chosen) if self.how == "mean" else total


def read_layers(asked: int | str, count: int, where: str) -> Layers:
    """Find which of `count` + 1 hidden states `layer` names.

    A number, or several as in "mean(-4:)" and "concat(1,-1)".

    Raises:
        ModelError: the model has no such layer, or no layer is named.
    """
    if isinstance(asked, int):
        return Layers("one", (_number(asked, count, where),))
    matched = re.fullmatch(LAYERS, asked.replace(" ", ""))
    if matched is None:
        raise ModelError(
            f'{where}: layer {asked!r} is no number and none of "mean(-4:)", "sum(1,2)", "concat(-4:)"'
        )
    how, listed = matched.groups()
    if ":" in listed:
        first, last = (int(part) if part else None for part in listed.split(":"))
        numbers = tuple(range(count + 1)[first:last])
    else:
        numbers = tuple(_number(int(part), count, where) for part in listed.split(","))
    if not numbers:
        raise ModelError(f"{where}: layer {asked!r} names none of the model's layers, which are 0 to {count}")
    return Layers(how, numbers)


def _number(asked: int, count: int, where: str) -> int:
    if not -count - 1 <= asked <= count:
        raise ModelError(f"{where}: no layer {asked}, the model has 0 to {count}")
    return asked % (count + 1)


class LayerStates:
    """A forward pass that gives the hidden states of some layers.

    Each block's input is caught as it goes in, so that no other layer's states are held. A model
    whose blocks are not found, or of which they are not what transformers calls its hidden states,
    is asked for all of them.
    """

    def __init__(self, model: Any, count: int, numbers: frozenset[int]) -> None:
        """Look at a loaded model of `count` blocks; `numbers`: the layers to give."""
        self._model, self._count, self._numbers = model, count, numbers
        self._blocks = self._find_blocks() if numbers - {count} else None
        self._caught: dict[int, Tensor] = {}
        if self._blocks is not None:
            blocks, inner = self._blocks, numbers - {count}
            hooks = [
                blocks[number].register_forward_pre_hook(partial(self._catch, number), with_kwargs=True)
                for number in inner
            ]
            if not self._same():
                self._blocks, self._caught = None, {}
                for hook in hooks:
                    hook.remove()

    def _find_blocks(self) -> Any:
        from torch.nn import ModuleList

        lists = [
            module
            for module in self._model.modules()
            if isinstance(module, ModuleList) and len(module) == self._count
        ]
        # Parts of a block may be as many as the blocks, but they are not alike.
        uniform = [blocks for blocks in lists if len({type(block) for block in blocks}) == 1]
        return uniform[0] if len(uniform) == 1 else None

    def _catch(self, number: int, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._caught[number] = args[0] if args else kwargs["hidden_states"]

    def _same(self) -> bool:
        """Compare what is caught with what transformers gives, on a small batch."""
        import torch

        ids = torch.ones((2, 5), dtype=torch.int64, device=self._model.device)
        try:
            with torch.inference_mode():
                caught = self(ids, torch.ones_like(ids))
                every = self._model(
                    input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
                ).hidden_states
        except (KeyError, RuntimeError, TypeError):
            return False
        return all(torch.equal(caught[number], every[number]) for number in self._numbers)

    def __call__(self, ids: Tensor, mask: Tensor | None, **more: Any) -> dict[int, Tensor]:
        """Give {number: (B, T, D)} of ids (B, T) int64; -1 is the model's output.

        `mask` is what the model takes as its `attention_mask`, `more` what else it is given.
        """
        self._caught = {}
        everything = self._blocks is None and bool(self._numbers - {self._count})
        options = {"output_hidden_states": True} if everything else {}
        outputs = self._model(input_ids=ids, attention_mask=mask, **options, **more)
        if everything:
            return {
                -1: outputs.last_hidden_state,
                **{number: outputs.hidden_states[number] for number in self._numbers},
            }
        states, self._caught = self._caught, {}
        return {**states, self._count: outputs.last_hidden_state, -1: outputs.last_hidden_state}

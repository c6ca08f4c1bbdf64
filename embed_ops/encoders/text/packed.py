"""A batch without padding: its texts behind one another, each attending to itself alone.

The models of transformers take the attention function from a registry, so theirs is replaced and
nothing else. On a GPU it is flash attention for sequences of different lengths
(`torch.nn.attention.varlen`, torch 2.11 and later); elsewhere one text after the other, which is
right and slow. Whether a model can be packed is tried on a small batch: what looks at masks,
adds a bias of its own, or numbers positions otherwise gives other states.

Legend: B texts, T tokens of the longest, N tokens of all, H heads, K heads of keys, D head size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from embed_ops.encoders.device import to_device
from embed_ops.encoders.text.masks import ids_of_words, limited_attention
from embed_ops.encoders.text.positions import first_position
from embed_ops.errors import ModelError
from embed_ops.numerics.ragged import offsets_of, runs

NAME = "embed_ops_packed"
_HALF = ("bfloat16", "float16")
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-3}
_SMALL = np.array([6, 3, 1])
"""Tokens of the texts of the small batch."""

_now = threading.local()


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a batch stand.

    Attributes:
        lengths: (B,) int64 tokens of each text.
        bounds: (B + 1,) int32 on the device: where each begins among N.
        places: (N,) int64 on the device: where each token stands in (B, T).
        positions: (N,) int64 on the device: its number in its text.
    """

    lengths: npt.NDArray[np.int64]
    bounds: Tensor
    places: Tensor
    positions: Tensor

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64], first_position: int, device: torch.device) -> Packing:
        """Lay texts of so many tokens behind one another."""
        numbers = runs(np.zeros(len(lengths), np.int64), lengths)  # (N,)
        row = np.repeat(np.arange(len(lengths)), lengths)  # (N,)
        at = row * max(1, int(lengths.max(initial=0))) + numbers

        def moved(array: npt.NDArray[Any]) -> Tensor:
            return to_device(torch.from_numpy(array), device)

        bounds = offsets_of(lengths).astype(np.int32)
        return cls(lengths, moved(bounds), moved(at), moved(numbers + first_position))

    def padded(self, states: Tensor) -> Tensor:
        """Bring states of tokens to their places: (1, N, D) to (B, T, D), zeros elsewhere."""
        width = max(1, int(self.lengths.max(initial=0)))
        rows = states.new_zeros(len(self.lengths) * width, states.shape[-1])
        return rows.index_copy_(0, self.places, states[0]).view(len(self.lengths), width, -1)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Let attention know where texts begin, while the model runs in this thread."""
        _now.packing = self
        try:
            yield
        finally:
            del _now.packing


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attend within each text: (1, H, N, D), (1, K, N, D), (1, K, N, D) to (1, N, H, D).

    Raises:
        ModelError: attention of another kind is asked for.
    """
    known = ("dropout", "position_ids", "output_attentions", "use_cache", "output_hidden_states")
    unknown = [name for name, asked in other.items() if asked is not None and name not in known]
    if attention_mask is not None or unknown:
        raise ModelError(f"packed attention knows no {', '.join(unknown) or 'mask'}")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    packing: Packing = _now.packing
    kernel = _flash if query.is_cuda else _one_by_one
    return kernel(packing, query[0], key[0], value[0], causal, scaling)[None], None


def _one_by_one(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float | None
) -> Tensor:
    """Attend in one text after the other: (H, N, D), (K, N, D), (K, N, D) to (N, H, D)."""
    kernel: Any = scaled_dot_product_attention
    parts: list[Tensor] = []
    begin = 0
    for length in packing.lengths.tolist():
        end = begin + length
        if length:
            own = (states[None, :, begin:end] for states in (query, key, value))
            options = {"is_causal": causal, "scale": scaling, "enable_gqa": len(query) != len(key)}
            parts.append(kernel(*own, **options)[0])
        begin = end
    return torch.cat(parts, dim=1).transpose(0, 1)


def _flash(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float | None
) -> Tensor:  # GPU only
    """Attend in all texts at once: (H, N, D), (K, N, D), (K, N, D) to (N, H, D)."""
    from torch.nn.attention import varlen

    kernel: Any = varlen.varlen_attn
    longest = int(packing.lengths.max())
    groups = len(query) // len(key)
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=0), value.repeat_interleave(groups, dim=0)
    attended: Tensor = kernel(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        packing.bounds,
        packing.bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    return attended


class Packer:
    """Packs batches for a loaded transformer.

    Args:
        model: on the CPU still.
        name: of the model.
        device: where it will compute; `dtype`: and in what.

    Raises:
        ModelError: the model can't be packed, or the device can't compute so.
    """

    def __init__(self, model: Any, name: str, device: str, dtype: str) -> None:
        from transformers import AttentionInterface

        require_kernel(name, device, dtype)
        AttentionInterface.register(NAME, attend)
        config = model.config
        own = config.get_text_config() if hasattr(config, "get_text_config") else config
        self._first_position = first_position(model)
        if (limit := limited_attention(own)) is not None:
            raise ModelError(f"{name}: {limit} limits its attention: it can't be packed; {_INSTEAD}")
        self._try(model, name, dtype)

    def _try(self, model: Any, name: str, dtype: str) -> None:
        """Compare a small batch with and without padding, and leave the model packed."""
        width = int(_SMALL.max())
        ids = ids_of_words(model, (len(_SMALL), width))
        mask = torch.arange(width) < torch.from_numpy(_SMALL)[:, None]  # (B, T)
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
            try:
                model.set_attn_implementation(NAME)
                packed = self.run(
                    lambda ids, mask, **options: {
                        -1: model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
                    },
                    ids[mask].numpy(),
                    _SMALL,
                    torch.device("cpu"),
                )[-1][mask]
            except Exception as error:  # a model that can't be packed may fail in any way
                reason = (str(error).splitlines() or [repr(error)])[0]
                raise ModelError(f"{name}: it can't be packed ({reason}); {_INSTEAD}") from error
        scale = float(expected.float().abs().max())
        if float((packed.float() - expected.float()).abs().max()) > _TOLERANCE[dtype] * scale:
            raise ModelError(f"{name}: packed, it gives other vectors than padded; {_INSTEAD}")

    def run(
        self,
        states: Callable[..., Mapping[int, Tensor]],
        tokens: npt.NDArray[Any],
        lengths: npt.NDArray[np.int64],
        device: torch.device,
    ) -> dict[int, Tensor]:
        """Give {layer: (B, T, D)} of a batch, zeros in the padding.

        Args:
            states: the forward pass: ids (1, N), no mask and positions to {layer: (1, N, D)}.
            tokens: (N,) of all texts.
            lengths: (B,) of each; there is a token at least.
            device: of the model.
        """
        packing = Packing.of(lengths, self._first_position, device)
        ids = to_device(torch.from_numpy(tokens.astype(np.int64)), device)[None]
        with packing.attended():
            packed = states(ids, None, position_ids=packing.positions[None])
        return {layer: packing.padded(of_layer) for layer, of_layer in packed.items()}


_INSTEAD = 'use encoder.attention = "padded" in a new run'


def require_kernel(name: str, device: str, dtype: str) -> None:
    """Check that the device has attention for packed texts; a CPU always has.

    Raises:
        ModelError: the type or the version of torch is another.
    """
    if device == "cpu":
        return
    if dtype not in _HALF:
        raise ModelError(f"{name}: packed attention computes in {' or '.join(_HALF)} on a GPU; {_INSTEAD}")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
        raise ModelError(
            f"{name}: packed attention needs torch 2.11 or later, and this is {torch.__version__}; {_INSTEAD}"
        )

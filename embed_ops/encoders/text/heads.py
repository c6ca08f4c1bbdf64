"""Runs what follows the transformer, in float32: pooling, dense, layer norm, normalisation.

Shapes: token vectors (B, T, D), sentence vectors (B, D'), masks (B, T).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from embed_ops.encoders.text.module_types import (
    SENTENCE,
    Dense,
    LayerNorm,
    Module,
    Normalize,
    Pooling,
    Truncate,
)
from embed_ops.encoders.text.pooling import pool
from embed_ops.encoders.text.settings import TOKENS
from embed_ops.errors import ModelError


def activation(name: str) -> nn.Module:
    """Build an activation from its dotted name.

    Only torch's own activations and Identity are looked up.

    Raises:
        ModelError: another class, or one that can't be built without arguments.
    """
    prefix, _, last = name.rpartition(".")
    if prefix in ("torch.nn", "torch.nn.modules.linear") and last == "Identity":
        return nn.Identity()
    kind = (
        getattr(nn.modules.activation, last, None)
        if prefix in ("torch.nn", "torch.nn.modules.activation")
        else None
    )
    own = (
        inspect.isclass(kind)
        and issubclass(kind, nn.Module)
        and kind.__module__ == "torch.nn.modules.activation"
    )
    try:
        if own and kind is not None:
            built: nn.Module = kind()
            return built
    except TypeError as error:
        raise ModelError(
            f"activation {name!r} of Dense needs arguments ({error}); choose another model"
        ) from error
    raise ModelError(f"activation {name!r} of Dense is not a torch.nn activation; choose another model")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a module from model.safetensors, else pytorch_model.bin.

    Tensors only, nothing is unpickled.

    Raises:
        ModelError: neither file is there, or it can't be read.
    """
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.is_file():
            from safetensors.torch import load_file

            return dict(load_file(safe))
        if pickled.is_file():
            return dict(torch.load(pickled, map_location="cpu", weights_only=True))
    except Exception as error:  # the readers raise many kinds, all with the same remedy
        raise ModelError(f"{folder}: the weights can't be read ({error}); fetch the model again") from error
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no such folder"
    raise ModelError(
        f"{folder}: no model.safetensors and no pytorch_model.bin, found {names}; fetch the model again"
    )


class _Dense(nn.Module):
    """The layers of Dense under the names that its weight file uses."""

    def __init__(self, spec: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.in_features, spec.out_features, bias=spec.bias)
        self.activation_function = activation(spec.activation)
        self.spec = spec
        if spec.residual and spec.in_features != spec.out_features:
            self.residual = nn.Linear(spec.in_features, spec.out_features, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.activation_function(self.linear(vectors))
        if not self.spec.residual:
            return out
        return out + (vectors if self.spec.in_features == self.spec.out_features else self.residual(vectors))


class _LayerNorm(nn.Module):
    def __init__(self, spec: LayerNorm) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.width)

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.norm(vectors)
        return out


class Heads:
    """The modules after the transformer, with their weights in float32 on `device`.

    Raises:
        ModelError: weights are missing or do not fit their module.
    """

    def __init__(self, modules: Sequence[Module], root: Path, device: str) -> None:
        self._steps: list[tuple[Module, nn.Module | None]] = [
            (module, _build(module, root, device)) for module in modules
        ]

    def __call__(self, tokens: Tensor, mask: Tensor, prompt: int | Tensor = 0) -> Tensor:
        """Give sentence vectors (B, D') float32 from token vectors (B, T, D) and mask (B, T).

        Args:
            tokens: hidden states of the transformer, any float type.
            mask: nonzero for real tokens; right padding.
            prompt: tokens of the prompt, which pooling leaves out where the model says so; (B, 1)
                where rows have prompts of their own.
        """
        vectors = {TOKENS: tokens.float()}
        for module, layer in self._steps:
            match module:
                case Pooling():
                    counted = mask
                    if not module.include_prompt:
                        before = prompt.to(mask.device) if isinstance(prompt, Tensor) else prompt
                        counted = mask * (torch.arange(mask.shape[1], device=mask.device) >= before)
                    vectors[SENTENCE] = torch.cat(
                        [pool(mode, vectors[TOKENS], counted, mask) for mode in module.modes], dim=-1
                    )
                case Normalize():
                    vectors[module.target] = nn.functional.normalize(vectors[module.source], p=2, dim=-1)
                case Truncate():
                    vectors[SENTENCE] = vectors[SENTENCE][:, : module.dim]
                case Dense() if layer is not None:
                    vectors[module.target] = layer(vectors[module.source])
                case LayerNorm() if layer is not None:
                    vectors[SENTENCE] = layer(vectors[SENTENCE])
        return vectors[SENTENCE]


def _build(module: Module, root: Path, device: str) -> nn.Module | None:
    """Build the layer of a module with weights, None for one without."""
    if not isinstance(module, Dense | LayerNorm):
        return None
    layer = _Dense(module) if isinstance(module, Dense) else _LayerNorm(module)
    try:
        layer.load_state_dict(read_weights(root / module.path))
    except RuntimeError as error:
        raise ModelError(
            f"{root / module.path}: the weights do not fit their module ({error}); fetch the model again"
        ) from error
    return layer.float().eval().requires_grad_(False).to(device)

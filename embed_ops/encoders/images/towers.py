"""A vision model: what its configuration says, its weights, its patches and their pooling.

Legend: B images, T positions (class token and the like, then patches), P patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.text.transformer import load_config, load_weights, require_weights
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

TOWERS = {
    "clip": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "chinese_clip": "ChineseCLIPVisionModel",
    "altclip": "AltCLIPVisionModel",
}
"""Models of images and texts, and the class of their image tower."""
POOLED = frozenset(
    "clip clip_vision_model siglip siglip_vision_model chinese_clip chinese_clip_vision_model altclip "
    "altclip_vision_model "
    "beit convnext convnextv2 resnet regnet".split()
)
"""Models whose image vector is the pooler's, where the spec does not say; of all others it is the
class token's."""
_ALL_LAYERS = {"output_hidden_states": True}
_CHANNELS = 3
_CONVOLVED_EDGE = 16
"""A convolutional network is taken to have a position for so many pixels squared: it sizes
batches."""


@dataclass(frozen=True)
class Shape:
    """What a configuration says of a model's positions.

    Attributes:
        model_type: of the configuration.
        width: of the last hidden states.
        patch: (height, width) of a patch in pixels; None: no patches, a convolutional network.
        measured: what it gives, where a configuration does not tell; None where it does.
    """

    model_type: str
    width: int
    patch: tuple[int, int] | None
    measured: Measured | None = None

    def patches(self, height: int, width: int) -> int:
        """Count the patches of an image of so many pixels."""
        if self.measured is not None:
            return self.measured.positions
        patch = self.patch or (_CONVOLVED_EDGE, _CONVOLVED_EDGE)
        return (height // patch[0]) * (width // patch[1])

    @property
    def pooling(self) -> str:
        """The pooling of an output that does not say."""
        pooled = self.model_type in POOLED or (self.measured is not None and self.measured.pooler)
        return "pooler" if pooled else "cls"

    @property
    def has_patches(self) -> bool:
        """Whether it gives positions that are patches, and not a convolution's."""
        return self.patch is not None if self.measured is None else not self.measured.convolution


@dataclass(frozen=True)
class Measured:
    """What a model of several stages gives for an image, from a pass without weights.

    No position of it is a class token's.

    Attributes:
        positions: of the last hidden states.
        convolution: they are those of a convolution, (channels, height, width).
        pooler: whether there is a pooler.
        layers: width of each of the hidden states, the first block's input before all others.
    """

    positions: int
    convolution: bool
    pooler: bool
    layers: tuple[int, ...]


def read_shape(folder: Path, pixels: tuple[int, int], trust_remote_code: bool) -> Shape:
    """Read the configuration of a vision model, or of the image tower of a model of both.

    Args:
        folder: of the model.
        pixels: height and width of an image, as the processor makes it.
        trust_remote_code: run the folder's own code.

    Raises:
        ModelError: it is none, as far as can be told.
    """
    whole = read_json(folder / "config.json")
    config: Mapping[str, Any] = whole
    kind = str(whole.get("model_type", ""))
    if "vision_config" in whole and kind not in TOWERS:
        raise ModelError(
            f"{folder}: family image knows the image towers of {', '.join(TOWERS)}, not that of "
            f"{kind!r}; choose another model"
        )
    if kind in TOWERS:
        # A tower's configuration may be left to the defaults of its class.
        config = load_config(folder, {}, trust_remote_code=False).vision_config.to_dict()
    width, stages = config.get("hidden_size"), config.get("hidden_sizes")
    if isinstance(stages, list) and stages:
        return Shape(kind, int(stages[-1]), None)
    patch = config.get("patch_size")
    staged = "depths" in config or isinstance(config.get("num_heads"), list)
    if staged or not isinstance(width, int) or patch is None:
        return _measured(folder, kind, pixels, trust_remote_code)
    return Shape(kind, width, (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1])))


def _measured(folder: Path, kind: str, pixels: tuple[int, int], trust_remote_code: bool) -> Shape:
    """Run a model without its weights, and look at what it gives."""
    import torch

    try:
        model = weightless_tower(folder, trust_remote_code)
        with torch.inference_mode():
            states = model(pixel_values=torch.zeros(1, _CHANNELS, *pixels, device="meta"), **_ALL_LAYERS)
        last = states.last_hidden_state.shape
    except ModelError:
        raise
    except Exception as error:  # what is no model of images fails in any way
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(
            f"{folder / 'config.json'}: no model of images, as far as can be told: {kind!r} takes no image "
            f"of {pixels[0]} x {pixels[1]} pixels ({type(error).__name__}: {reason})"
        ) from error
    if len(last) not in (3, 4):
        raise ModelError(f"{folder / 'config.json'}: {kind!r} gives hidden states of shape {tuple(last)}")
    convolution = len(last) == 4
    layers = tuple(
        int(states.shape[1] if states.dim() == 4 else states.shape[-1])
        for states in getattr(states, "hidden_states", None) or ()
    )
    positions, width = (last[2] * last[3], last[1]) if convolution else (last[1], last[2])
    pooler = getattr(states, "pooler_output", None) is not None
    return Shape(kind, int(width), None, Measured(int(positions), convolution, pooler, layers))


def load_tower(folder: Path, outputs: tuple[OutputSpec, ...], trust_remote_code: bool, dtype: str) -> Any:
    """Load a vision model, or the image tower of a model of both.

    Raises:
        ModelError: weights are missing, those of a pooler too where an output asks for it.
    """
    import transformers

    config = load_config(folder, {}, trust_remote_code)
    kind: Any = transformers.AutoModel
    if config.model_type in TOWERS:
        kind, config = getattr(transformers, TOWERS[config.model_type]), config.vision_config
    model, missing = load_weights(kind, config, folder, trust_remote_code, dtype)
    pooler = any(output.pooling == "pooler" for output in outputs)
    require_weights(
        folder, [key for key in missing if pooler or not {"pooler", "head", "pooling"} & set(key.split("."))]
    )
    return model


def weightless_tower(folder: Path, trust_remote_code: bool) -> Any:
    """Build the same model on torch's meta device.

    With plain attention, whose products can be counted.

    Raises:
        ModelError: transformers can't build it.
    """
    import torch
    import transformers

    config = load_config(folder, {}, trust_remote_code)
    auto: Any = transformers.AutoModel
    try:
        with torch.device("meta"):
            if config.model_type in TOWERS:
                return getattr(transformers, TOWERS[config.model_type])._from_config(
                    config.vision_config, attn_implementation="eager"
                )
            return auto.from_config(config, trust_remote_code=trust_remote_code, attn_implementation="eager")
    except Exception as error:  # each class of models fails in its own way
        raise ModelError(
            f"{folder / 'config.json'}: transformers can't build the model ({error}); choose another model"
        ) from error


def flops_of_image(model: Any, height: int, width: int) -> float:
    """Count the floating-point operations of one image on a weightless model.

    Products and convolutions, two for each multiply-add.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(pixel_values=torch.zeros(1, 3, height, width, device="meta"))
    return float(counter.get_total_flops())


def pooled(output: OutputSpec, states: Any, patches: int | None, name: str) -> Tensor:
    """Make an output's vectors, (B, dim) float32, of what a model gave.

    Args:
        output: pooling, layer and normalisation; `auto` is decided before.
        states: the model's output, hidden states among it where a layer is asked for.
        patches: of an image; positions before them are those of class and register tokens. None:
            there are no others than patches.
        name: of the model.

    Raises:
        ModelError: the model has no such layer, pooler or class token.
    """
    from embed_ops.encoders.text.pooling import finish

    if output.pooling == "pooler":
        vectors = getattr(states, "pooler_output", None)
        if vectors is None or output.layer_number != -1:
            at = f"no pooler at layer {output.layer_number}"
            why = "the model has no pooler" if vectors is None else at
            raise ModelError(f"{name}: output {output.name!r}: {why}; choose mean or max")
        vectors = vectors.flatten(1).float()
    else:
        vectors = of_patches(output, _hidden(output, states, name), patches, name)
    return finish(vectors, output)


def _hidden(output: OutputSpec, states: Any, name: str) -> Tensor:
    """Give the hidden states of a layer, (B, T, D) float32.

    Those of a convolutional network as positions.
    """
    hidden = states.last_hidden_state
    if output.layer_number != -1:
        layers = states.hidden_states
        if not -len(layers) <= output.layer_number < len(layers):
            raise ModelError(
                f"{name}: output {output.name!r}: no layer {output.layer_number}, there are 0 to "
                f"{len(layers) - 1}"
            )
        hidden = layers[output.layer_number]
    positions: Tensor = (hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden).float()
    return positions


def of_patches(output: OutputSpec, hidden: Tensor, patches: int | None, name: str) -> Tensor:
    """Pool the positions of images, (B, T, D): class token, mean or max of patches, or all of them.

    Arguments as of `pooled`.

    Raises:
        ModelError: the model has no class token.
    """
    before = 0 if patches is None else hidden.shape[1] - patches
    if output.pooling == "cls":
        if before < 1:
            raise ModelError(
                f"{name}: output {output.name!r}: the model has no class token; choose mean or max"
            )
        return hidden[:, 0]
    own = hidden[:, max(0, before) :]
    if output.pooling == "patches":
        return own.flatten(1)
    return own.amax(dim=1) if output.pooling == "max" else own.mean(dim=1)

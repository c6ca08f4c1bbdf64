"""The transformer itself: its limits, its weights and padded batches.

Legend: B inputs, T tokens of the longest input, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.hub.quiet import quiet
from embed_ops.errors import ModelError

if TYPE_CHECKING:
    import torch

    from embed_ops.encoders.text.files import TextFiles

ENCODER_CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
}
"""Encoder-decoder models of which the encoder alone embeds."""
HIDDEN_KEYS = ("hidden_size", "d_model", "dim", "n_embd")
LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")


def hidden_size(folder: Path, trust_remote_code: bool) -> int:
    """Give the width of the transformer's hidden states.

    Raises:
        ModelError: its configuration does not say.
    """
    return _stated(folder, HIDDEN_KEYS, "hidden size", trust_remote_code)


def layer_count(folder: Path, trust_remote_code: bool) -> int:
    """Count the transformer's blocks.

    Raises:
        ModelError: its configuration does not say.
    """
    return _stated(folder, LAYER_KEYS, "number of layers", trust_remote_code)


def _stated(folder: Path, keys: Sequence[str], what: str, trust_remote_code: bool) -> int:
    """Look a number up in the configuration, without importing transformers if possible."""
    config: Mapping[str, Any] = read_json(folder / "config.json")
    if not any(key in config for key in keys):
        config = load_config(folder, {}, trust_remote_code).to_dict()
    for key in keys:
        if isinstance(value := config.get(key), int):
            return value
    raise ModelError(
        f"{folder / 'config.json'}: no {what} ({', '.join(keys)}); give a folder of a text model"
    )


def load_config(folder: Path, changes: Mapping[str, Any], trust_remote_code: bool) -> Any:
    """Load the transformers configuration, with no cache of keys and values.

    Since nothing is generated.

    Raises:
        ModelError: transformers can't read it, or it is an encoder-decoder whose encoder is not
            known to embed.
    """
    from transformers import AutoConfig

    try:
        # It remarks on ids of tokens, which nothing here uses.
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **changes)
    except Exception as error:  # configuration classes fail in many ways
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(
            f"{folder / 'config.json'}: transformers can't use it ({reason}); choose another model"
        ) from error
    if getattr(config, "is_encoder_decoder", False) and config.model_type not in ENCODER_CLASSES:
        raise ModelError(
            f"{folder}: {config.model_type} is an encoder-decoder; of these only "
            f"{', '.join(ENCODER_CLASSES)} are supported"
        )
    config.use_cache = False
    return config


def model_class(config: Any) -> Any:
    """Give the class to load: the encoder alone for encoder-decoders, else AutoModel."""
    import transformers

    return getattr(transformers, ENCODER_CLASSES.get(config.model_type, "AutoModel"))


def weightless_model(folder: Path, changes: Mapping[str, Any], trust_remote_code: bool) -> Any:
    """Build the model on torch's meta device: its layers, without their weights.

    Raises:
        ModelError: transformers can't use the configuration.
    """
    import torch

    config = load_config(folder, changes, trust_remote_code)
    kind = model_class(config)
    with quiet(), torch.device("meta"):
        if hasattr(kind, "from_config"):
            return kind.from_config(config, trust_remote_code=trust_remote_code)
        return kind(config)


def load_transformer(files: TextFiles, dtype: str) -> Any:
    """Load the transformer for inference, on the CPU, an adapter merged into it.

    Raises:
        ModelError: the weights can't be read, or do not fill the model.
    """
    import torch

    folder, trusted = files.path, files.spec.trust_remote_code
    config = load_config(folder, files.settings.config, trusted)
    # What an adapter adds is small beside the weights: it is added in float32.
    whole = dtype if files.adapter is None else "float32"
    model, missing = load_weights(model_class(config), config, folder, trusted, whole)
    # Only the pooler may be missing: nothing here reads it.
    require_weights(folder, [key for key in missing if "pooler" not in key.split(".")])
    return model if files.adapter is None else files.adapter.merged(model).to(getattr(torch, dtype))


def load_weights(
    kind: Any, config: Any, folder: Path, trust_remote_code: bool, dtype: str
) -> tuple[Any, list[str]]:
    """Load a model of a class for inference, on the CPU, and name the weights that it lacks.

    Transformers fills them with random numbers.

    Raises:
        ModelError: the weights can't be read.
    """
    import torch

    options = {
        "config": config,
        "dtype": getattr(torch, dtype),
        "trust_remote_code": trust_remote_code,
        "output_loading_info": True,
        # What does not fit is named by `require_weights`; transformers would show a table.
        "ignore_mismatched_sizes": True,
    }
    try:
        # sdpa is named, since a configuration may ask for flash attention, which a CPU does not
        # have.
        model, report = _from_pretrained(kind, folder, {"attn_implementation": "sdpa", **options})
    except Exception as error:  # readers of weights fail in many ways
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(
            f"{folder}: the weights can't be loaded ({reason}); fetch the model again"
        ) from error
    missing = [
        *sorted(report["missing_keys"]),
        *sorted(_misshapen(entry) for entry in report.get("mismatched_keys", ())),
    ]
    return model.eval().requires_grad_(False), missing


def _misshapen(entry: Any) -> str:
    """Name a weight that does not fit, and both shapes where they are told."""
    if isinstance(entry, str) or len(entry) < 3:
        return str(entry)
    name, found, wanted = entry[:3]
    return f"{name} of {tuple(found)} where the configuration says {tuple(wanted)}"


def require_weights(folder: Path, missing: Sequence[str]) -> None:
    """Refuse a model that lacks weights.

    Raises:
        ModelError: names some of them.
    """
    if missing:
        named = ", ".join(missing[:3])
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing or misshapen ({named}); "
            "correct config.json, or fetch the model again"
        )


def _from_pretrained(kind: Any, folder: Path, options: Mapping[str, Any]) -> Any:
    """Load, with eager attention where there is no other."""
    with quiet():
        try:
            return kind.from_pretrained(folder, **options)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            return kind.from_pretrained(folder, **{**options, "attn_implementation": "eager"})


def flat(
    tokens: pa.ChunkedArray | pa.Array,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Give the tokens of all inputs behind one another, (N,), and the number of each, (B,)."""
    array = tokens.combine_chunks() if isinstance(tokens, pa.ChunkedArray) else tokens
    offsets = array.offsets.to_numpy(zero_copy_only=False)
    values = array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    return values, np.diff(offsets).astype(np.int64)


def pad(tokens: pa.ChunkedArray | pa.Array, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Build right-padded ids and mask, both (B, T) int64, from a list<int32> column.

    T is at least 1.

    Padding is on the right whatever the tokenizer's configuration says: with the mask, positions of
    real tokens are then those of the text alone, for encoders and decoders alike (a causal token
    never sees what stands to its right), and pooling asks the mask where a text ends.
    """
    import torch

    values, lengths = flat(tokens)
    mask = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = values
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))

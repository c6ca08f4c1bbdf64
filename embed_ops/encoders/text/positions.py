"""How many tokens a model has positions for.

Only a table of positions ends: rotary, relative and ALiBi positions do not, whatever
`max_position_embeddings` says of the texts that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.text.files import TextFiles
from embed_ops.encoders.text.transformer import ENCODER_CLASSES, weightless_model
from embed_ops.errors import ModelError

FROM_ZERO = frozenset({"bert", "distilbert"})
"""Models whose table has as many positions as are stated: no look at their layers is needed, which
would import torch."""
TABLES = frozenset({"position_embeddings", "position_embedding", "embed_positions", "wpe", "pos_encoding"})
"""What models call their tables, as layers or as constants."""


STATED = {"mpt": "max_seq_len"}
"""Models that make their biases for a stated length alone, and where it stands."""
UNBOUNDED = 1_000_000_000
"""A tokenizer without a limit states a huge one."""


def token_limit(files: TextFiles) -> int | None:
    """Give the most tokens of a text.

    The least of what the spec, the model and its table of positions allow; None: no limit. In a
    folder of sentence-transformers `max_seq_length` stands in place of the tokenizer's own limit;
    where it is told no length, `max_position_embeddings` cuts, with a table or without.

    Raises:
        ModelError: transformers can't use the configuration.
    """
    spec, settings = files.spec, files.settings
    limits = [spec.max_tokens, settings.max_seq_length]
    if settings.max_seq_length is None:
        tokenizer = read_json(files.tokenizer / "tokenizer_config.json")
        limits.append(tokenizer.get("model_max_length") or tokenizer.get("max_len"))
        limits.append(_stated(files.path, settings.config) if files.pipeline is not None else None)
    limits.append(usable_positions(files.path, settings.config, spec.trust_remote_code))
    return min((int(limit) for limit in limits if limit and 0 < limit < UNBOUNDED), default=None)


def _stated(folder: Path, changes: Mapping[str, Any]) -> int | None:
    """Give the positions that a configuration states, whether or not there is a table of them."""
    config = {**read_json(folder / "config.json"), **changes}
    if config.get("model_type") in ENCODER_CLASSES:
        return None
    stated = config.get("max_position_embeddings") or config.get("n_positions")
    return stated if isinstance(stated, int) and stated > 0 else None


def usable_positions(folder: Path, changes: Mapping[str, Any], trust_remote_code: bool) -> int | None:
    """Give the most tokens that a text may have for a model's table of positions; None: no table.

    Args:
        folder: the transformer's folder.
        changes: to its configuration.
        trust_remote_code: run the folder's own code.

    Raises:
        ModelError: transformers can't use the configuration.
    """
    kind, stated = read_json(folder / "config.json").get("model_type"), _stated(folder, changes)
    if kind in ENCODER_CLASSES or (kind in FROM_ZERO and stated is not None):
        return stated
    try:
        model = weightless_model(folder, changes, trust_remote_code)
    except ModelError:
        raise
    except Exception:  # own code may not build without weights: what it states is the safe side
        return stated
    return table_positions(model)


def table_positions(model: Any) -> int | None:
    """Count the positions that a text can use of a model's table; None: it has no table.

    A table that begins behind the padding token's id, or is longer than what is used of it, says so
    itself.
    """
    usable = [
        len(layer.weight) - (_behind_padding(layer) or getattr(layer, "offset", 0))
        for layer in _tables(model)
    ]
    usable += [
        len(values)
        for name, values in model.named_buffers()
        if name.rpartition(".")[2] in TABLES and values.dim() == 2
    ]
    config = model.config
    # Nystroemformer's table is longer than what is used of it.
    stated = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if usable and isinstance(stated, int) and stated > 0:
        usable.append(stated)
    if (length := STATED.get(config.model_type)) is not None:
        usable.append(int(getattr(config, length)))
    return min(usable, default=None)


def first_position(model: Any) -> int:
    """Give the position of a text's first token, as `position_ids` of a model count.

    0, or what stands behind the padding token's id.
    """
    return max((_behind_padding(layer) for layer in _tables(model)), default=0)


def _behind_padding(layer: Any) -> int:
    """Give the place behind the padding token's id, 0 where a table has no place for padding."""
    padding = getattr(layer, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _tables(model: Any) -> list[Any]:
    """Find the layers that look positions up, of torch or of a model's own kind."""
    from torch.nn import Linear

    named = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in TABLES]
    return [
        layer
        for layer in named
        if not isinstance(layer, Linear) and getattr(getattr(layer, "weight", None), "ndim", 0) == 2
    ]

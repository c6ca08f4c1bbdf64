"""Reads the settings of a sentence-transformers folder's transformer. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embed_ops.encoders.hub.files import read_json
from embed_ops.errors import ModelError

TOKENS = "token_embeddings"
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
LOADING_KEYS = frozenset(
    {
        "attn_implementation",
        "dtype",
        "torch_dtype",
        "low_cpu_mem_usage",
        "trust_remote_code",
        "use_safetensors",
    }
)
"""Keys of the transformer's model arguments that change how weights load, not what they are."""
KNOWN = frozenset(
    "max_seq_length do_lower_case transformer_task modality_config module_output_name processing_kwargs "
    "processor_kwargs tokenizer_args model_kwargs model_args config_kwargs config_args unpad_inputs".split()
)
"""Keys of the transformer's settings that are followed, or that change no vector."""


def require_known(file: Path, config: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse keys that are not understood: leaving one out might give other vectors without a word.

    A key without a value, or switched off, asks for nothing.

    Raises:
        ModelError: names them.
    """
    odd = sorted(key for key, value in config.items() if key not in known and value not in (None, False))
    if odd:
        raise ModelError(
            f"{file}: {', '.join(odd)} {'is' if len(odd) == 1 else 'are'} not understood; take out what "
            "changes no vector, choose another model, or name [[encoder.outputs]] to pool the transformer"
        )


@dataclass(frozen=True)
class Transformer:
    """Settings of the transformer itself; `path` is relative to the model folder."""

    path: str = ""
    max_seq_length: int | None = None
    lower: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


def _require_plain_text(config: Mapping[str, Any], where: str) -> None:
    """Refuse a module that gives anything but the last hidden state of a text."""
    if (task := config.get("transformer_task", "feature-extraction")) != "feature-extraction":
        raise ModelError(
            f"{where}: transformer_task {task!r} is not supported, only 'feature-extraction' is; choose "
            "another model"
        )
    modalities = config.get(
        "modality_config", {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    )
    text = modalities.get("text") or {}
    plain = text.get("method") == "forward" and text.get("method_output_name") in (
        "last_hidden_state",
        ["last_hidden_state"],
    )
    # With "message" the reference would send each text through a chat template.
    if "message" in modalities or not plain:
        raise ModelError(
            f"{where}: modality_config is not plain text to last_hidden_state ({modalities}); choose "
            "another model"
        )
    if config.get("module_output_name", TOKENS) != TOKENS:
        raise ModelError(
            f"{where}: module_output_name {config['module_output_name']!r} is not supported, only "
            f"{TOKENS!r} is"
        )


def read_transformer(root: Path, path: str) -> Transformer:
    """Read the settings of the transformer module in `root / path`.

    Raises:
        ModelError: a setting would change vectors and is not followed.
    """
    folder = root / path
    config: dict[str, Any] = next(
        (content for name in TRANSFORMER_FILES if (content := read_json(folder / name))), {}
    )
    file = folder / TRANSFORMER_FILES[0]
    where = str(file)
    require_known(file, config, KNOWN)
    _require_plain_text(config, where)
    processor = dict(config.get("processor_kwargs") or config.get("tokenizer_args") or {})
    processing = config.get("processing_kwargs") or {}
    asked = dict(processing.get("text") or {}) | dict(processing.get("common") or {})
    limit = (
        asked.pop("max_length", None)
        or processor.pop("model_max_length", None)
        or config.get("max_seq_length")
    )
    model = config.get("model_kwargs") or config.get("model_args") or {}
    # Padding is this library's own business and truncation is always on; other keys would be
    # dropped without a word.
    odd = set(model) - LOADING_KEYS | set(processor) - {"padding_side", "use_fast", "trust_remote_code"}
    odd |= set(asked) - {"padding", "padding_side", "truncation", "return_tensors"}
    if odd or asked.get("truncation") in (False, "do_not_truncate"):
        raise ModelError(
            f"{where}: {sorted(odd or {'truncation'})} can't be followed; choose another model or take "
            "the keys out"
        )
    changes = dict(config.get("config_kwargs") or config.get("config_args") or {})
    # Whether a model's code may run is for the spec to say, never for the model.
    changes.pop("trust_remote_code", None)
    return Transformer(path, limit, bool(config.get("do_lower_case", False)), changes)

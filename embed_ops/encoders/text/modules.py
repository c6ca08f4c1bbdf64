"""Reads a sentence-transformers folder: which modules follow the transformer, and the prompts.

Needs no torch.

A module that is not understood is an error, never skipped: skipping it would give other vectors
without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.text.module_types import (
    SENTENCE,
    Dense,
    LayerNorm,
    Module,
    Normalize,
    Pooling,
    Truncate,
)
from embed_ops.encoders.text.settings import TOKENS, Transformer, read_transformer, require_known
from embed_ops.errors import ModelError

SUPPORTED = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")

MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
"""Mode names of sentence-transformers to those of the spec."""
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The boolean keys of older folders, in the order in which their vectors are concatenated."""
SENTENCE_KEYS = frozenset(
    "__version__ model_type prompts default_prompt_name similarity_fn_name truncate_dim requirements".split()
)
"""Keys of the whole model: followed, or of no vector."""
ENTRY_KEYS = frozenset({"idx", "name", "path", "type", "kwargs"})
"""Keys of an entry of modules.json; `kwargs` names what a call may give, and none is given here."""
MODULE_KEYS: Mapping[str, frozenset[str]] = {
    "Pooling": frozenset(
        {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *FLAGS}
    ),
    "Dense": frozenset(
        "in_features out_features bias activation_function module_input_name module_output_name "
        "use_residual".split()
    ),
    "LayerNorm": frozenset({"dimension"}),
    "Normalize": frozenset({"module_input_name", "module_output_name"}),
    "Dropout": frozenset({"dropout"}),
}
"""Keys of each module's configuration."""
ACTIVATIONS = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity", "torch.nn.")


@dataclass(frozen=True)
class Pipeline:
    """What a sentence-transformers folder asks for.

    `folders` are those of the parts used, relative to the root.
    """

    transformer: Transformer
    modules: tuple[Module, ...]
    prompts: Mapping[str, str]
    default_prompt: str | None
    folders: tuple[str, ...]


def read_pipeline(root: Path, transformer_only: bool = False) -> Pipeline | None:
    """Read modules.json and what it names; None if the folder is not a sentence-transformers one.

    Args:
        root: the model folder.
        transformer_only: the caller pools by itself, so modules after the transformer are not read.

    Raises:
        ModelError: a module, activation or setting that is not supported, or a broken file.
    """
    listed = entries(root)
    if listed is None:
        return None
    (kind, path), *rest = listed
    if _supported(root, kind, path) != "Transformer":
        raise ModelError(
            f"{root / 'modules.json'}: the first module is {kind}, only Transformer can be first; {_choose()}"
        )
    transformer = read_transformer(root, path)
    config = read_json(root / "config_sentence_transformers.json")
    require_known(root / "config_sentence_transformers.json", config, SENTENCE_KEYS)
    prompts = {"query": "", "document": ""} | {
        name: text or "" for name, text in (config.get("prompts") or {}).items()
    }
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelError(
            f"{root / 'config_sentence_transformers.json'}: default_prompt_name {default!r} is not one "
            f"of {sorted(prompts)}"
        )
    if transformer_only:
        return Pipeline(transformer, (), prompts, default, ("", path))
    if (model_type := config.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise ModelError(
            f"{root}: a {model_type} gives no single vector per text; name [[encoder.outputs]] to pool "
            "its transformer"
        )
    modules = tuple(
        module
        for kind, path in rest
        if (module := _module(root, _supported(root, kind, path), path)) is not None
    )
    _check_flow(root, modules)
    if (dim := config.get("truncate_dim")) is not None:
        modules += (_truncate(root, dim),)
    return Pipeline(transformer, modules, prompts, default, ("", *(path for _, path in listed)))


def _choose() -> str:
    return (
        f"supported modules: {', '.join(SUPPORTED)}; choose another model, or name [[encoder.outputs]] to "
        "pool the transformer"
    )


def entries(root: Path) -> list[tuple[str, str]] | None:
    """List modules.json as (dotted class, folder), None if there is no such file.

    Raises:
        ModelError: it is no such list, or leads out of the folder.
    """
    file = root / "modules.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        listed = [(str(entry["type"]), str(entry["path"])) for entry in content]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: not a list of modules with type and path ({error!r}); fetch the model again"
        ) from error
    if not listed:
        raise ModelError(f"{file}: lists no module; fetch the model again")
    for entry in content:
        require_known(file, entry, ENTRY_KEYS)
    for kind, path in listed:
        # Windows separators count as well: PurePosixPath alone would take "..\\x" for a plain name.
        parts = PurePosixPath(path.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise ModelError(
                f"{file}: the folder {path!r} of {kind} is outside of the model; do not use this model"
            )
    return listed


def _supported(root: Path, kind: str, path: str) -> str:
    """Give the class name of a module's dotted class."""
    name = kind.rpartition(".")[2]
    # The package has moved its classes between releases, so only its root and the class name are
    # stable.
    if name == "StaticEmbedding":
        raise ModelError(
            f"{root / 'modules.json'}: a table of tokens' vectors (StaticEmbedding), without a transformer: "
            'set encoder.family = "static"'
        )
    if not kind.startswith("sentence_transformers.") or name not in SUPPORTED:
        raise ModelError(
            f"{root / 'modules.json'}: module {kind} in {path or 'the model folder'!r} is not supported; "
            f"{_choose()}"
        )
    return name


def _module(root: Path, kind: str, path: str) -> Module | None:
    """Read one module after the transformer; None for one that does nothing at inference."""
    file = root / path / "config.json"
    config = read_json(file)
    require_known(file, config, MODULE_KEYS.get(kind, frozenset(config)))
    try:
        match kind:
            case "Pooling":
                return Pooling(_modes(file, config), bool(config.get("include_prompt", True)))
            case "Dense":
                return _dense(file, path, config)
            case "LayerNorm":
                return LayerNorm(path, int(config["dimension"]))
            case "Normalize":
                source = config.get("module_input_name", SENTENCE)
                return Normalize(source, config.get("module_output_name") or source)
            case "Dropout":
                return None
    except KeyError as error:
        raise ModelError(
            f"{file}: {kind} has no {error} in its configuration; fetch the model again"
        ) from error
    raise ModelError(
        f"{root / 'modules.json'}: module {kind} in {path!r} can't stand after the transformer; {_choose()}"
    )


def _truncate(root: Path, dim: Any) -> Truncate:
    if not isinstance(dim, int) or dim < 1:
        raise ModelError(
            f"{root / 'config_sentence_transformers.json'}: truncate_dim is {dim!r}, expected a whole number "
            "from 1"
        )
    return Truncate(dim)


def _modes(file: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    if not config:
        raise ModelError(f"{file}: missing or empty, so the pooling is unknown; fetch the model again")
    asked = (
        config.get("pooling_mode") or tuple(mode for key, mode in FLAGS.items() if config.get(key)) or "mean"
    )
    names = (asked,) if isinstance(asked, str) else tuple(asked)
    if unknown := [name for name in names if name not in MODES]:
        raise ModelError(f"{file}: pooling mode {unknown[0]!r} is not supported; known: {', '.join(MODES)}")
    return tuple(MODES[name] for name in names)


def _dense(file: Path, path: str, config: Mapping[str, Any]) -> Dense:
    activation = config.get("activation_function") or Dense.activation
    if not str(activation).startswith(ACTIVATIONS):
        raise ModelError(
            f"{file}: activation {activation!r} of Dense is not a torch.nn activation; choose another model"
        )
    source = config.get("module_input_name", SENTENCE)
    return Dense(
        path=path,
        in_features=int(config["in_features"]),
        out_features=int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=str(activation),
        residual=bool(config.get("use_residual", False)),
        source=source,
        target=config.get("module_output_name") or source,
    )


def _check_flow(root: Path, modules: tuple[Module, ...]) -> None:
    """Check that each module reads what one before it wrote, and that a vector comes out."""
    known = {TOKENS}
    for module in modules:
        read, written = (TOKENS, SENTENCE) if isinstance(module, Pooling) else (SENTENCE, SENTENCE)
        if isinstance(module, Dense | Normalize):
            read, written = module.source, module.target
        if read not in known:
            name = type(module).__name__
            raise ModelError(
                f"{root / 'modules.json'}: {name} reads {read!r}, which no module before it gives; "
                f"{_choose()}"
            )
        known.add(written)
    if SENTENCE not in known:
        raise ModelError(
            f"{root / 'modules.json'}: no Pooling, so there is no single vector per text; name "
            "[[encoder.outputs]]"
        )

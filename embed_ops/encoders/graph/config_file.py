"""Reads a graph model's config.json, and says in a sentence what is wrong with it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from embed_ops.encoders.graph.config import GatConfig, GcnConfig, GraphConfig, SageConfig
from embed_ops.encoders.graph.nodewise import squeezed
from embed_ops.errors import ModelError
from embed_ops.spec.wording import sentence

CONFIG = "config.json"
MODELS: Mapping[str, type[SageConfig] | type[GatConfig] | type[GcnConfig]] = {
    "GraphSAGE": SageConfig,
    "GAT": GatConfig,
    "GCN": GcnConfig,
}


def read_config(folder: Path) -> SageConfig | GatConfig | GcnConfig:
    """Read config.json of a model folder.

    Raises:
        ModelError: it is not there, or a setting is unknown, has a bad value or is not supported;
            the message says which.
    """
    path = folder / CONFIG
    try:
        tree = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ModelError(
            f'{folder}: no {CONFIG}; write one with the arguments of the model, as {{"type": '
            f'"GraphSAGE", ...}}'
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: not a JSON object ({error}); correct it") from error
    return parse_config(tree, str(path))


def parse_config(tree: Mapping[str, Any], where: str) -> SageConfig | GatConfig | GcnConfig:
    """Check settings as `read_config` does; `where` begins messages."""
    name = str(tree.get("type", "nothing"))
    kind = MODELS.get(name)
    if kind is None:
        hint = (
            'GATv2 is GAT with "v2": true'
            if squeezed(name).startswith("gatv2")
            else "no other models are supported"
        )
        raise ModelError(f"{where}: type: expected {', '.join(MODELS)}, found {name}; {hint}")
    for key in tree:
        if key not in kind.model_fields:
            raise ModelError(f"{where}: {key}: {_unknown(key, kind)}")
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ModelError(
            f"{where}: {sentence(kind, error.errors()[0], tree).removeprefix('spec: ')}"
        ) from error


def _unknown(key: str, kind: type[GraphConfig]) -> str:
    """Say why a key is none of a model's."""
    others = [name for name, other in MODELS.items() if key in other.model_fields]
    if others:
        return f"a setting of {' and '.join(others)}, which this model does not have; take it out"
    near = difflib.get_close_matches(key, list(kind.model_fields), n=1, cutoff=0.5)
    return "unknown key; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(kind.model_fields)}"
    )

"""What decides the vectors: fields of the spec and hashes of the model, compared with those of an earlier run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from embed_ops import __version__
from embed_ops.batching import RULE
from embed_ops.errors import RunError
from embed_ops.job import Resolved
from embed_ops.spec import AUTO, Spec

_SOURCE_FIELDS = ("kind", "column", "template", "keep", "where", "limit", "types", "delimiter")
_ENCODER_FIELDS = ("family", "max_tokens", "prompt", "outputs", "trust_remote_code")
_VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")
CPU_TOKEN_BUDGET = 4_096
"""Positions of a forward pass on a CPU: a size that is common for small models; not tuned here."""
GPU_TOKEN_BUDGET = 65_536
"""The same on a GPU: a guess that no test here has run."""


def fingerprint(spec: Spec, model: Mapping[str, str]) -> dict[str, Any]:
    """List what decides the vectors, by field; `model` has the hashes of the model's files."""
    tree = spec.model_dump(mode="json")
    found = {f"source.{name}": tree["source"][name] for name in _SOURCE_FIELDS}
    found |= {f"encoder.{name}": tree["encoder"][name] for name in _ENCODER_FIELDS}
    found |= {"sink.dtype": spec.sink.dtype, "resources.unit_rows": spec.resources.unit_rows}
    return found | {f"model {part}": digest for part, digest in sorted(model.items())}


def digest_of(found: Mapping[str, Any]) -> str:
    """Hash a fingerprint to 16 hexadecimal digits, as the footers carry it."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def require_same(where: str, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of another fingerprint.

    Raises:
        RunError: names every field that differs, with both values.
    """
    differing = [name for name in sorted({*known, *asked}) if known.get(name) != asked.get(name)]
    if differing:
        listed = "; ".join(f"{name}: the run has {_short(known.get(name))}, asked for {_short(asked.get(name))}" for name in differing)
        raise RunError(f"{where} holds a run of another spec: {listed}. Choose another sink.path, or ask for the same")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def resolve(spec: Spec) -> Resolved:
    """Decide what "auto" means on this machine."""
    device = "cuda" if spec.resources.gpus_per_replica > 0 else "cpu"
    budget = spec.resources.token_budget
    if budget == "auto":
        budget = CPU_TOKEN_BUDGET if device == "cpu" else GPU_TOKEN_BUDGET
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    return Resolved(
        # Settled on a replica, by the parity check; without one nothing vouches for a shorter type.
        dtype="float32" if spec.encoder.dtype == AUTO and spec.parity.rows == 0 else spec.encoder.dtype,
        compile=False,
        token_budget=budget,
        batch_rule=RULE,
        threads_per_replica=spec.resources.threads_per_replica,
        device=device,
        versions={"embed-ops": __version__, **versions},
    )


def resume(where: str, known: Mapping[str, Any], spec: Spec) -> Resolved:
    """Take over what an earlier attempt resolved, where this machine and this spec can honour it.

    Raises:
        RunError: names what can't be honoured, with both values.
    """
    earlier, now = Resolved(**known), resolve(spec)
    asked = {
        "encoder.dtype": (earlier.dtype, earlier.dtype if spec.encoder.dtype == AUTO else spec.encoder.dtype),
        "resources.token_budget": (
            earlier.token_budget,
            earlier.token_budget if spec.resources.token_budget == "auto" else spec.resources.token_budget,
        ),
        "resources.threads_per_replica": (earlier.threads_per_replica, now.threads_per_replica),
        "device": (earlier.device, now.device),
        "batch rule": (earlier.batch_rule, now.batch_rule),
        **{f"version of {name}": (earlier.versions.get(name), version) for name, version in now.versions.items()},
    }
    require_same(where, {name: pair[0] for name, pair in asked.items()}, {name: pair[1] for name, pair in asked.items()})
    return earlier

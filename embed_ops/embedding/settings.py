"""What "auto" became, and what decides the vectors of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embed_ops.embedding.batching import RULES, BatchRule
from embed_ops.encoders.registry import modality_of
from embed_ops.lazy import installed
from embed_ops.runs.fingerprint import require_same, versions_of
from embed_ops.spec.encoder import (
    AUTO,
    MAX_PIXELS,
    KerasEncoderSpec,
    LanguageEncoderSpec,
    TensorflowEncoderSpec,
)
from embed_ops.spec.source import GraphSourceSpec
from embed_ops.spec.spec import Spec

_SOURCE_FIELDS = ("kind", "modality", "keep", "where", "types")
_SOURCE_DEFAULTS = {"column": None, "template": None, "limit": None, "delimiter": None}
_ENCODER_FIELDS = ("family", "outputs", "trust_remote_code")
_ENCODER_DEFAULTS = {
    "max_tokens": None,
    "prompt": None,
    "max_pixels": MAX_PIXELS,
    "draft": AUTO,
    "lowercase": AUTO,
}
"""Fields that not every kind or family has: where there is none, it counts as left out, so that all
fingerprints have the same keys."""
_OUTPUT_DEFAULTS = (("each", AUTO), ("tensor", None))
"""Fields of outputs that runs of before there were such have not."""
PADDED = "padded"
_WINDOW_FIELDS = ("window", "stride", "chunk", "targets", "targets_column")
_PROMPT_FIELDS = ("prompt_column", "prompts")
_KERAS_FIELDS = ("preprocessing", "mean", "scale", "size", "interpolation")
_TENSORFLOW_FIELDS = ("signature", "size", "value_range")
_VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "pillow", "pyarrow")
_GRAPH_FIELDS = (
    "id",
    "features",
    "src",
    "dst",
    "weight",
    "edge_features",
    "undirected",
    "on_missing",
    "fanout",
)


def fingerprint(spec: Spec, model: Mapping[str, str], edges: str | None = None) -> dict[str, Any]:
    """List what decides the vectors, by field.

    `model` has the hashes of the model's files, `edges` that of a graph's edge files.
    """
    tree = spec.model_dump(mode="json")
    entries = {f"source.{name}": tree["source"][name] for name in _SOURCE_FIELDS}
    entries |= {
        f"source.{name}": tree["source"].get(name, default) for name, default in _SOURCE_DEFAULTS.items()
    }
    if isinstance(spec.source, GraphSourceSpec):
        entries |= {f"source.{name}": tree["source"][name] for name in _GRAPH_FIELDS}
        entries |= {
            "edge files": edges,
            "encoder.dtype": spec.encoder.dtype,
            **({"seed": spec.seed} if spec.source.fanout else {}),
        }
    entries |= {f"encoder.{name}": tree["encoder"][name] for name in _ENCODER_FIELDS}
    entries |= {
        f"encoder.{name}": tree["encoder"].get(name, default) for name, default in _ENCODER_DEFAULTS.items()
    }
    # Runs of before there were windows have none of these fields, and are the same runs.
    entries |= {
        f"encoder.{name}": tree["encoder"][name] for name in _WINDOW_FIELDS if spec.encoder.in_windows
    }
    if tree["encoder"].get("prompt_column") is not None:
        entries |= {f"encoder.{name}": tree["encoder"][name] for name in _PROMPT_FIELDS}
    if (attention := tree["encoder"].get("attention", PADDED)) != PADDED:
        entries["encoder.attention"] = attention
    if (channels := tree["encoder"].get("channels", AUTO)) != AUTO:
        entries["encoder.channels"] = channels
    if isinstance(spec.encoder, KerasEncoderSpec):
        entries |= {f"encoder.{name}": tree["encoder"][name] for name in _KERAS_FIELDS}
    if isinstance(spec.encoder, TensorflowEncoderSpec):
        entries |= {f"encoder.{name}": tree["encoder"][name] for name in _TENSORFLOW_FIELDS}
    # What a quantizer is stands among the hashes; where it lies changes nothing.
    entries["encoder.outputs"] = [
        {
            key: value
            for key, value in output.items()
            if key != "quantizer" and (key, value) not in _OUTPUT_DEFAULTS
        }
        for output in tree["encoder"]["outputs"]
    ]
    entries |= {"sink.dtype": spec.sink.dtype, "resources.unit_rows": spec.resources.unit_rows}
    return entries | {f"model {part}": digest for part, digest in sorted(model.items())}


def resolve(spec: Spec, gpus: float = 0.0) -> Resolved:
    """Give every setting a value.

    The spec's, or the safe one that "auto" has until a replica has measured a better.

    `gpus`: of a replica, where the spec leaves them to the cluster that is there.
    """
    asked = spec.resources.gpus_per_replica
    gpus = gpus if asked == AUTO else asked
    device = "cuda" if gpus > 0 else "cpu"
    budget, threads = spec.resources.token_budget, spec.resources.threads_per_replica
    return Resolved(
        dtype="float32" if spec.encoder.dtype == AUTO else spec.encoder.dtype,
        compile=spec.encoder.compile is True,
        token_budget=modality_of(spec).token_budgets[device] if budget == AUTO else budget,
        batch_rule=RULES["packed" if _packed(spec) else device].name,
        threads_per_replica=1 if threads == AUTO else threads,
        device=device,
        draft=spec.encoder.drafts is True,
        versions=versions_of(*_VERSIONED) | _runtime(spec),
        gpus_per_replica=gpus,
    )


def _runtime(spec: Spec) -> dict[str, str]:
    """Give the version of what computes in torch's place, whichever of its packages is installed.

    Raises:
        PackageError: none is.
    """
    name, family = spec.encoder.RUNTIME, spec.encoder.family
    return {} if name is None else {name: installed(name, family, f"family {family}")}


def _packed(spec: Spec) -> bool:
    """Tell whether batches have no padding."""
    return isinstance(spec.encoder, LanguageEncoderSpec) and spec.encoder.attention != PADDED


def choices(spec: Spec) -> frozenset[str]:
    """Name the settings that are "auto", for a replica to choose.

    None without a parity check, which must vouch for them.
    """
    if spec.parity.rows == 0:
        return frozenset()
    asked = {
        "dtype": spec.encoder.dtype,
        "compile": False if _packed(spec) else spec.encoder.compile,
        "token_budget": spec.resources.token_budget,
        # In float32 the decoder's own pixels are kept.
        "draft": False if spec.encoder.dtype == "float32" else spec.encoder.drafts,
    }
    return modality_of(spec).choices & {name for name, value in asked.items() if value == AUTO}


def resume(where: str, known: Mapping[str, Any], spec: Spec) -> Resolved:
    """Take over what an earlier attempt resolved, where this machine and this spec can honour it.

    Raises:
        RunError: names what can't be honoured, with both values.
    """
    earlier = Resolved(**known)
    # A run stays on its kind of device, unless another is asked for.
    now = resolve(spec, earlier.gpus_per_replica or float(earlier.device != "cpu"))
    given = {
        "encoder.dtype": (earlier.dtype, spec.encoder.dtype),
        "encoder.compile": (earlier.compile, spec.encoder.compile),
        "encoder.draft": (earlier.draft, spec.encoder.drafts),
        "resources.token_budget": (earlier.token_budget, spec.resources.token_budget),
        "resources.threads_per_replica": (earlier.threads_per_replica, spec.resources.threads_per_replica),
    }
    both = {
        **{name: (known, known if value == AUTO else value) for name, (known, value) in given.items()},
        "device": (earlier.device, now.device),
        "batch rule": (earlier.batch_rule, now.batch_rule),
        **{
            f"version of {name}": (earlier.versions.get(name), version)
            for name, version in now.versions.items()
        },
    }
    require_same(
        where,
        {name: known for name, (known, _) in both.items()},
        {name: asked for name, (_, asked) in both.items()},
    )
    return replace(earlier, gpus_per_replica=now.gpus_per_replica)


@dataclass(frozen=True)
class Resolved:
    """What "auto" became.

    With the spec and the data it decides every byte, so it is kept with the run.

    Attributes:
        dtype: compute type.
        compile: whether the forward pass is compiled.
        token_budget: padded positions of a forward pass.
        batch_rule: name of the rule that forms token batches.
        threads_per_replica: CPU threads of a forward pass.
        device: "cpu" or "cuda".
        versions: exact versions of the libraries that compute or write.
        draft: whether the JPEG decoder shrinks large photographs.
        gpus_per_replica: share of a GPU.
    """

    dtype: str
    compile: bool
    token_budget: int
    batch_rule: str
    threads_per_replica: int
    device: str
    versions: Mapping[str, str]
    draft: bool = False
    gpus_per_replica: float = 0.0

    @property
    def rule(self) -> BatchRule:
        """How token batches are formed."""
        return next(rule for rule in RULES.values() if rule.name == self.batch_rule)

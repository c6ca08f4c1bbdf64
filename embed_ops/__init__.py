"""embed-ops: turn a corpus too big for one script into embeddings.

from embed_ops import Spec, embed
run = embed(Spec.load("run.toml"))
run.open().to_table()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from embed_ops.analysis.neighbors import neighbors as neighbors
    from embed_ops.analysis.overview import list_runs as list_runs
    from embed_ops.embedding.driver import embed as embed
    from embed_ops.embedding.driver import retry as retry
    from embed_ops.embedding.encoder import Encoder as Encoder
    from embed_ops.postprocessing.driver import postprocess as postprocess
    from embed_ops.runs.models import load_model as load_model
    from embed_ops.runs.run import Run as Run
    from embed_ops.runs.verify.run import verify as verify
    from embed_ops.spec.spec import Spec as Spec

_HOMES = {
    "Encoder": "embed_ops.embedding.encoder",
    "Run": "embed_ops.runs.run",
    "Spec": "embed_ops.spec.spec",
    "embed": "embed_ops.embedding.driver",
    "list_runs": "embed_ops.analysis.overview",
    "load_model": "embed_ops.runs.models",
    "neighbors": "embed_ops.analysis.neighbors",
    "postprocess": "embed_ops.postprocessing.driver",
    "retry": "embed_ops.embedding.driver",
    "verify": "embed_ops.runs.verify.run",
}
__all__ = [
    "Encoder",
    "Run",
    "Spec",
    "__version__",
    "embed",
    "list_runs",
    "load_model",
    "neighbors",
    "postprocess",
    "retry",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: Ray and torch take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'embed_ops' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

"""What may stand after the transformer of a sentence-transformers folder. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from embed_ops.encoders.text.settings import TOKENS

SENTENCE = "sentence_embedding"


@dataclass(frozen=True)
class Pooling:
    """Token vectors to one vector.

    The modes (names of the spec) in the order of their concatenation.
    """

    modes: tuple[str, ...]
    include_prompt: bool = True


@dataclass(frozen=True)
class Dense:
    """A linear layer with an activation.

    Weights are in `path`, `source` and `target` name the vectors read and written.
    """

    path: str
    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "torch.nn.modules.activation.Tanh"
    residual: bool = False
    source: str = SENTENCE
    target: str = SENTENCE


@dataclass(frozen=True)
class LayerNorm:
    """A layer norm over the sentence vector; weights are in `path`."""

    path: str
    width: int


@dataclass(frozen=True)
class Normalize:
    """Division by the L2 norm."""

    source: str = SENTENCE
    target: str = SENTENCE


@dataclass(frozen=True)
class Truncate:
    """The first `dim` dimensions, after all other modules and without normalising again."""

    dim: int


Module = Pooling | Dense | LayerNorm | Normalize | Truncate


def width(modules: tuple[Module, ...], hidden: int) -> int:
    """Give the width of the sentence vector, from the transformer's hidden size."""
    widths = {TOKENS: hidden}
    for module in modules:
        match module:
            case Pooling():
                widths[SENTENCE] = len(module.modes) * widths[TOKENS]
            case Dense():
                widths[module.target] = module.out_features
            case Normalize():
                widths[module.target] = widths[module.source]
            case Truncate():
                widths[SENTENCE] = min(module.dim, widths[SENTENCE])
            case LayerNorm():
                pass
    return widths[SENTENCE]

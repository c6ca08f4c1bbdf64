"""Models and texts for `gpu.py`: the shapes of real models with seeded weights.

Speed does not depend on the weights, and a machine without a network has none.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from images import write_model
from write_texts import numbered_docstrings


@dataclass(frozen=True)
class Shape:
    """A transformer's size.

    Attributes:
        width: of the hidden states; `layers`, `heads`, `inner` (width of the feed-forward part).
        key_heads: heads of keys; None: an encoder, else a decoder.
    """

    width: int
    layers: int
    heads: int
    inner: int
    key_heads: int | None = None


SHAPES = {
    "minilm": Shape(384, 6, 12, 1536),
    "bert-base": Shape(768, 12, 12, 3072),
    "bert-large": Shape(1024, 24, 16, 4096),
    "qwen3-0.6b": Shape(1024, 28, 16, 3072, key_heads=8),
}
SMALL = {
    "minilm": Shape(32, 2, 2, 64),
    "bert-base": Shape(32, 2, 2, 64),
    "bert-large": Shape(32, 2, 2, 64),
    "qwen3-0.6b": Shape(32, 2, 2, 64, key_heads=1),
}
"""Of the same kinds, for trying the program."""
IMAGES = "vit-b16"
_WORDS = 30_522


def write_text_model(name: str, folder: Path, tokenizer: Path, *, small: bool) -> Path:
    """Save a seeded model with the tokenizer that lies in another folder."""
    shape = (SMALL if small else SHAPES)[name]
    sizes: dict[str, Any] = {
        "vocab_size": _WORDS,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
    }
    torch.manual_seed(0)
    if shape.key_heads is None:
        model: Any = transformers.BertModel(transformers.BertConfig(**sizes))
    else:
        head = {"num_key_value_heads": shape.key_heads, "head_dim": 128 if not small else 16}
        model = transformers.Qwen3Model(transformers.Qwen3Config(**sizes, **head))
    model.save_pretrained(folder / name)
    for path in tokenizer.iterdir():
        if path.name.startswith(("tokenizer", "vocab", "special")):
            shutil.copy(path, folder / name)
    return folder / name


def write_image_model(folder: Path, *, small: bool) -> Path:
    """Save a seeded ViT-B/16 and its processor."""
    return write_model("vit-tiny" if small else IMAGES, folder, *((32, 16) if small else (224, 16)))


def texts_of(lengths: str, rows: int) -> tuple[list[str], int]:
    """Give so many different texts, and the most tokens of each.

    `docstrings`: as they are, up to 256 tokens; `512`: joined, so that each is cut there.
    """
    texts = numbered_docstrings(rows if lengths == "docstrings" else 16 * rows)
    if lengths == "docstrings":
        return texts, 256
    return [" ".join(texts[row::rows]) for row in range(rows)], 512

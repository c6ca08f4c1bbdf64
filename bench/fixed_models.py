"""Tiny models of each family, whose weights numpy draws from a seed: the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

WORDS = (
    "the of and to in graph node edge vector row text image model file run stage table word token window "
    "cluster centre distance cosine mean norm layer head weight bias seed sum read write begin end first "
    "last near far small large quick brown fox jumps over lazy dog"
).split()
SIDE = 48
"""Pixels of an image's side, as models take it."""
LONGEST = 64
"""Tokens that a model takes."""
WORD_DIM, FEATURES, TEXT_DIM, EDGE_DIM = 12, 12, 32, 2
"""Widths: word vectors, features of nodes, vectors of the text model, features of edges."""
_LAYERS: dict[str, Any] = {
    "hidden_size": TEXT_DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_GRID: dict[str, Any] = {"image_size": SIDE, "patch_size": 8}
_SQUARE = {"height": SIDE, "width": SIDE}


def _save(model: Any, processors: list[Any], folder: Path) -> str:
    """Give every weight a seeded value, and save the model with what prepares its input."""
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            # As large as in trained models, so that the vectors of two inputs are far apart.
            scale = 1.0 if "embedding" in name and weight.ndim > 1 else 0.2 if weight.ndim > 1 else 0.05
            middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            weight.copy_(
                torch.from_numpy(np.asarray(rng.normal(middle, scale, tuple(weight.shape)), np.float32))
            )
    model.eval().save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return str(folder)


def _tokenizer(longest: int) -> Any:
    """Make a WordPiece tokenizer of a few words and of single characters."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=longest)


def text_model(folder: Path) -> str:
    """Save a BERT of two layers, and give its folder."""
    tokenizer = _tokenizer(LONGEST)
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST, **_LAYERS)
    return _save(transformers.BertModel(config), [tokenizer], folder)


def image_model(folder: Path) -> str:
    """Save a ViT of two layers, and give its folder."""
    model = transformers.ViTModel(transformers.ViTConfig(**_LAYERS, **_GRID))
    return _save(model, [transformers.ViTImageProcessorPil(size=_SQUARE)], folder)


def clip_model(folder: Path) -> str:
    """Save a CLIP of two layers a side, and give its folder."""
    tokenizer = _tokenizer(24)
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    text = {**_LAYERS, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    config = transformers.CLIPConfig(text_config=text, vision_config={**_LAYERS, **_GRID}, projection_dim=20)
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE)
    return _save(transformers.CLIPModel(config), [processor, tokenizer], folder)


def word_table(file: Path) -> str:
    """Write word vectors as GloVe's text, and give the file."""
    vectors = np.random.default_rng(3).standard_normal((len(WORDS), WORD_DIM))
    lines = (
        f"{word} {' '.join(f'{value:.5f}' for value in vector)}\n"
        for word, vector in zip(WORDS, vectors, strict=True)
    )
    file.write_text("".join(lines))
    return str(file)


_SAGE = {"lin_l.weight": (16, FEATURES), "lin_l.bias": (16,), "lin_r.weight": (16, FEATURES)}
_SAGE_LAST = {"lin_l.weight": (8, 16), "lin_l.bias": (8,), "lin_r.weight": (8, 16)}
_HEADS = {
    "att_src": (1, 2, 8),
    "att_dst": (1, 2, 8),
    "att_edge": (1, 2, 8),
    "lin_edge.weight": (16, EDGE_DIM),
}
_GAT = {**_HEADS, "lin.weight": (16, FEATURES), "bias": (16,)}
_GAT_LAST = {**_HEADS, "lin.weight": (16, 16), "bias": (8,)}
_GCN = {"lin.weight": (16, TEXT_DIM), "bias": (16,)}
_GCN_LAST = {"lin.weight": (8, 16), "bias": (8,)}
_GRAPHS: dict[str, tuple[dict[str, Any], list[dict[str, tuple[int, ...]]]]] = {
    "GraphSAGE": ({"in_channels": FEATURES}, [_SAGE, _SAGE_LAST]),
    "GAT": ({"in_channels": FEATURES, "heads": 2, "edge_dim": EDGE_DIM}, [_GAT, _GAT_LAST]),
    "GCN": ({"in_channels": TEXT_DIM}, [_GCN, _GCN_LAST]),
}
"""Settings, and the shapes of each layer's weights by PyTorch Geometric's names."""


def graph_model(kind: str, folder: Path) -> str:
    """Save a graph model of two layers; `kind` is GraphSAGE, GAT or GCN. Gives its folder."""
    folder.mkdir(parents=True)
    settings, layers = _GRAPHS[kind]
    rng = np.random.default_rng(11)
    weights = {
        f"convs.{layer}.{name}": np.asarray(rng.normal(0.0, 0.3, shape), np.float32)
        for layer, shapes in enumerate(layers)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    config = {"type": kind, "hidden_channels": 16, "num_layers": 2, "out_channels": 8, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)

"""Says of a folder that is no model what it is: an adapter, weights of another program, a pointer.

Nothing is loaded: names, sizes and the first bytes tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embed_ops.encoders.hub.files import is_pointer, read_json
from embed_ops.errors import ModelError

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
WEIGHTS = (SAFE, f"{SAFE}.index.json", PICKLED, f"{PICKLED}.index.json")
TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.model",
    "*.tiktoken",
)
NO_VOCABULARY = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})
"""Tokenizers of bytes or characters, which have no vocabulary file."""
CONFIGURED = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
"""Files that may name code (`auto_map`)."""
OTHERS = {
    "*.gguf": "weights of llama.cpp (GGUF)",
    "*ggml*": "weights of llama.cpp (GGML)",
    "*.onnx": 'weights of ONNX: encoder.family = "onnx"',
    "onnx/*.onnx": 'weights of ONNX: encoder.family = "onnx"',
    "saved_model.pb": 'a SavedModel of TensorFlow: encoder.family = "tensorflow"',
    "openvino_model*": "weights of OpenVINO",
    "openvino/*": "weights of OpenVINO",
    "*.keras": 'a network of Keras: encoder.family = "keras"',
    "*.h5": 'weights of TensorFlow, or a network of Keras: encoder.family = "keras"',
    "*.hdf5": 'a network of Keras: encoder.family = "keras"',
    "*.msgpack": "weights of Flax",
    "*.npz": "weights of MLX or Flax",
    "open_clip*": "a model of OpenCLIP",
    "consolidated*.pth": "weights as Meta gives them",
    "*.ckpt": "a checkpoint of Lightning or TensorFlow",
    "global_step*": "a checkpoint of DeepSpeed",
    "checkpoint-*": "a training's checkpoints: name one of them",
    "snapshots": "a hub's cache: name snapshots/COMMIT in it",
    "model.bin": "weights of CTranslate2",
}
"""What other programs leave, and what it is."""


def _content_of(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if not names:
        return "an empty folder" if path.is_dir() else "no such folder"
    listed = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
    known = list(dict.fromkeys(what for pattern, what in OTHERS.items() if any(path.glob(pattern))))
    return f"{listed} ({', '.join(known)})" if known else listed


def check_config(path: Path) -> None:
    """Check that the transformer's folder has a configuration and a tokenizer, and is no adapter.

    Raises:
        ModelError: it has not; the message lists what was found.
    """
    check_images(path)
    own = read_json(path / "tokenizer_config.json")
    stated = own.get("tokenizer_class") in NO_VOCABULARY or "auto_map" in own
    files = [file for pattern in TOKENIZERS for file in path.glob(pattern)]
    if not stated and not files:
        raise ModelError(
            f"{path}: no tokenizer ({', '.join(TOKENIZERS[:5])}), found {_content_of(path)}; save the "
            "tokenizer there too"
        )
    for file in files:
        _refuse_pointer(file)


def check_images(path: Path) -> None:
    """Check that the folder has the configuration of a model in plain weights, and is no adapter.

    Raises:
        ModelError: it has not; the message lists what was found.
    """
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"{path}: holds an adapter (adapter_config.json), not a model; merge it into its base model first"
        )
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(
            f"{path}: no config.json, found {_content_of(path)}; give the folder of a transformers model"
        )
    config = read_json(file)
    if "pretrained_cfg" in config or config.get("model_type") == "timm_wrapper":
        raise ModelError(
            f"{file}: a model of timm, which is not used here; give the folder of a transformers model"
        )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise ModelError(
            f"{file}: the weights are quantized ({method or 'quantization_config'}), and only those of "
            "floats are loaded; give the model that they were made of"
        )


def check_weights(path: Path) -> None:
    """Check that the transformer's folder has weights that torch can read.

    Raises:
        ModelError: it has none, a shard is missing, or a pointer stands in the place of one; the
            message lists what was found.
    """
    first = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if first is None:
        variants = sorted(file.name for file in path.glob("model.*.safetensors"))
        advice = (
            f"only a variant is there: rename {variants[0]} to {SAFE}"
            if len(variants) == 1
            else "give a folder with safetensors weights"
        )
        raise ModelError(f"{path}: no weights ({', '.join(WEIGHTS)}), found {_content_of(path)}; {advice}")
    _refuse_pointer(first)
    if first.suffix != ".json":
        return
    for name in _shards(first):
        if not (path / name).is_file():
            raise ModelError(
                f"{path}: {name} is not there, and {first.name} lists it; fetch the model again, whole"
            )
        _refuse_pointer(path / name)


def own_code(path: Path, *, run: bool) -> dict[str, Any]:
    """Say for `run.json` which code of its own a folder names, {} where it names none.

    Args:
        path: the model's folder.
        run: the code is run (`encoder.trust_remote_code`); else transformers' own classes stand in.
    """
    named = {name: code for name in CONFIGURED if (code := read_json(path / name).get("auto_map"))}
    return {"own_code": {"run": run, "auto_map": named}} if named else {}


def not_run(model: str, described: Mapping[str, Any] | None) -> str:
    """Warn of a model that names code of its own, which is not run; "" where there is none.

    Args:
        model: its name.
        described: what it became (`Encoder.describe`).
    """
    code = (described or {}).get("own_code") or {"run": True}
    if code["run"]:
        return ""
    return (
        f"{model}: its folder names code of its own (auto_map in {', '.join(code['auto_map'])}), which was "
        "not run: transformers' classes stand in, and may give other vectors than its authors do; "
        "encoder.trust_remote_code = true runs it"
    )


def _shards(index: Path) -> list[str]:
    """Name the files that an index lists.

    Raises:
        ModelError: it lists none, or leads out of the folder.
    """
    listed = read_json(index).get("weight_map")
    names = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise ModelError(
            f"{index}: expected a weight_map with files of its own folder, found {json.dumps(listed)[:80]}; "
            "fetch the model again"
        )
    return names


def _refuse_pointer(file: Path) -> None:
    if is_pointer(file):
        raise ModelError(
            f"{file}: is a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull)"
        )

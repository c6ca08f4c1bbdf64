"""The reference of images.

One at a time, from the file on: opened by Pillow as a user would, then through transformers' own
processor and model in float32, pooled in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageOps

from embed_ops.encoders.base import FloatArray, finished
from embed_ops.encoders.hub.quiet import quiet
from embed_ops.encoders.images.towers import TOWERS
from embed_ops.encoders.text.transformer import load_config
from embed_ops.spec.encoder import ClipEncoderSpec, ImageEncoderSpec, OutputSpec

Vector = npt.NDArray[np.float64]


def load_processor(folder: Path, trust_remote_code: bool) -> Any:
    """Load transformers' processor, that which resizes by Pillow."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=trust_remote_code)


def each_image(column: pa.Array, embed: Callable[[Any], Mapping[str, Vector]]) -> dict[str, FloatArray]:
    """Call a function for each image.

    {output: (rows, dim) float32}, NaN where there is no image.
    """
    rows: list[Mapping[str, Vector] | None] = []
    for content in column.to_pylist():
        image = None if content is None else _open(content)
        rows.append(None if image is None else embed(image))
    known = next((row for row in rows if row is not None), {})
    nothing = {name: np.full(len(vector), np.nan) for name, vector in known.items()}
    return {name: np.stack([(row or nothing)[name] for row in rows]).astype(np.float32) for name in known}


def processed(processor: Any, image: Any) -> Any:
    """Put an image through a processor as it is.

    Whatever its configuration says, the processor makes RGB of what is not: no model here takes
    another number of channels.
    """
    return processor(images=image, do_convert_rgb=True, return_tensors="pt")


def _open(content: bytes) -> Image.Image | None:
    """Open a file upright, None where it is no image.

    The processors cut gray above 255: that of more bits is brought to eight by its full scale.
    """
    try:
        with Image.open(BytesIO(content)) as file:
            form, image = file.format, ImageOps.exif_transpose(file)
    except Exception:  # decoders fail in many ways, and such rows are rejects
        return None
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(np.floor(values * 255 + 0.5).astype(np.uint8)) if values.max() <= 1 else image
    if (most := values.max()) > 255:
        scale = 16 if most < 4096 and form != "PPM" else 256
        return Image.fromarray(np.floor_divide(values, scale).astype(np.uint8))
    return image


def embed_images(
    column: pa.Array,
    folder: Path,
    outputs: Sequence[OutputSpec],
    spec: ImageEncoderSpec | ClipEncoderSpec,
    device: str = "cpu",
) -> tuple[str, dict[str, FloatArray]]:
    """Embed a column of images' bytes: the reference's name, and {output: (rows, dim) float32}."""
    import torch
    import transformers

    processor = load_processor(folder, spec.trust_remote_code)
    config = load_config(folder, {}, spec.trust_remote_code)
    kind: Any = transformers.AutoModel
    if config.model_type in TOWERS:
        kind, config = getattr(transformers, TOWERS[config.model_type]), config.vision_config
    with quiet():
        loaded = kind.from_pretrained(
            folder, config=config, dtype=torch.float32, trust_remote_code=spec.trust_remote_code
        )
    model = loaded.eval().to(device)
    before = _tokens_before(model)

    def embed(image: Any) -> dict[str, Vector]:
        values = processed(processor, image)["pixel_values"].to(device)
        with torch.inference_mode():
            states = model(pixel_values=values, output_hidden_states=True)
        return {output.name: _pool(output, states, before) for output in outputs}

    return f"transformers {transformers.__version__}", each_image(column, embed)


def _tokens_before(model: Any) -> int:
    """Count the tokens that a model puts before the patches: class, distillation, registers."""
    tokens = ("cls_token", "class_embedding", "distillation_token", "register_tokens")
    return sum(
        1 if values.dim() == 1 else int(values.shape[-2])
        for name, values in model.named_parameters()
        if name.rpartition(".")[2] in tokens
    )


def _pool(output: OutputSpec, states: Any, before: int) -> Vector:
    if output.pooling == "pooler":
        vector = states.pooler_output.flatten().cpu().double().numpy()
    else:
        hidden = (
            (
                states.last_hidden_state
                if output.layer_number == -1
                else states.hidden_states[output.layer_number]
            )[0]
            .cpu()
            .double()
            .numpy()
        )
        if hidden.ndim == 3:  # of a convolution: (channels, height, width)
            hidden, before = hidden.reshape(len(hidden), -1).T, 0
        vector = pool_positions(output.pooling, hidden, before)
    return finished(vector, output)


def pool_positions(pooling: str, hidden: Vector, before: int) -> Vector:
    """Pool the positions of an image, (T, D), of which so many stand before the patches."""
    own = hidden[before:]
    poolings: Mapping[str, Callable[[], Vector]] = {
        "cls": lambda: hidden[0],
        "mean": lambda: own.mean(0),
        "max": lambda: own.max(0),
        "patches": own.flatten,
    }
    return poolings[pooling]()

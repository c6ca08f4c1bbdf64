"""Families that are computed by another runtime than torch: a file is run as it is."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from embed_ops.spec.encoder_parts import (
    MAX_PIXELS,
    OF_IMAGES,
    OF_TEXTS,
    ONLY_AUTO,
    EncoderSpec,
    PromptedSpec,
    WithImagesSpec,
)
from embed_ops.spec.output import AUTO, OutputSpec
from embed_ops.spec.wording import as_tuple


class OnnxEncoderSpec(PromptedSpec, WithImagesSpec):
    """A vector for each text, or each image, by a model in an ONNX file."""

    EMBEDS = ("text", "image")
    POOLING = OF_TEXTS | OF_IMAGES
    DTYPES = frozenset()
    REMARK = "it runs a file as it is"
    GPUS = "asked"
    RUNTIME = "onnxruntime"
    family: Literal["onnx"] = Field("onnx", description="a model of texts or of images in an ONNX file")
    file: str | None = Field(
        None,
        pattern=r"\.onnx$",
        description="the variant, as onnx/model_quantized.onnx; left out: model.onnx or onnx/model.onnx, "
        "else the only one",
    )
    channels: Literal["auto", "first", "last"] = Field(
        "auto", description="images: which axis the channels are; auto: as the file says, else first"
    )
    reference: str | None = Field(
        None,
        min_length=1,
        description="folder or hub name of the model that the file was made of: the first rows are compared "
        "with it too",
    )

    @property
    def of_images(self) -> tuple[str, ...]:
        """Name the fields that are for images and ask for something."""
        asked = {
            "max_pixels": self.max_pixels != MAX_PIXELS,
            "draft": self.draft is True,
            "channels": self.channels != AUTO,
        }
        return tuple(name for name, given in asked.items() if given)

    @model_validator(mode="after")
    def _nothing_is_compiled(self) -> Self:
        if self.compile is True:
            raise ValueError("family onnx runs a file as it is: leave compile out")
        return self

    def _check_output(self, output: OutputSpec) -> None:
        super()._check_output(output)
        if output.layer != -1:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: a graph's layers have no numbers; "
                "name a tensor of it (tensor)"
            )


Channels = Annotated[tuple[float, float, float], BeforeValidator(as_tuple)]
"""A number for each of red, green and blue."""
Pixels = Annotated[int, Field(gt=0)]
"""Of an edge."""


class KerasEncoderSpec(WithImagesSpec):
    """A vector for each image or array, by a network in a file of Keras."""

    EMBEDS = ("image", "tensor")
    POOLING = frozenset({"auto", "mean", "max"})
    DTYPES = frozenset()
    REMARK = "it runs a file as it is"
    RUNTIME = "keras"
    family: Literal["keras"] = Field("keras", description="a network in a .keras or .h5 file")
    preprocessing: Literal["tf", "caffe", "torch", "none"] | None = Field(
        None,
        description="what becomes of pixels, as keras.applications has it; left out: only where the network "
        "begins with layers that do it",
    )
    mean: float | Channels | None = Field(
        None, description="taken off pixels of 0 to 255, one number or one for red, green and blue"
    )
    scale: float | Channels | None = Field(None, description="what pixels, less the mean, are multiplied by")
    size: Pixels | Annotated[tuple[Pixels, Pixels], BeforeValidator(as_tuple)] | None = Field(
        None, description="edge, or height and width, in pixels, where the network takes any size"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = Field(
        "nearest", description="how images are resized; nearest is what keras.utils.load_img does"
    )

    @model_validator(mode="after")
    def _a_file_is_run_as_it_is(self) -> Self:
        if self.compile is True:
            raise ValueError("family keras runs a file as it is: leave compile out")
        if self.draft is True:
            raise ValueError("family keras resizes images as Keras does: leave draft out")
        return self

    @model_validator(mode="after")
    def _mean_and_scale_stand_alone(self) -> Self:
        if self.preprocessing not in (None, "none") and (self.mean, self.scale) != (None, None):
            raise ValueError(
                f'preprocessing = "{self.preprocessing}" has its own mean and scale: leave these out, or '
                'say preprocessing = "none"'
            )
        return self

    def _check_output(self, output: OutputSpec) -> None:
        super()._check_output(output)
        if output.layer != -1:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: layers of Keras have names; name one "
                "by tensor"
            )


class TensorflowEncoderSpec(WithImagesSpec):
    """A vector for each text, image or tensor, by a SavedModel of TensorFlow."""

    EMBEDS = ("text", "image", "tensor")
    POOLING = ONLY_AUTO
    DTYPES = frozenset()
    REMARK = "it runs a SavedModel as it is"
    GPUS = "never"
    RUNTIME = "tensorflow"
    family: Literal["tensorflow"] = Field("tensorflow", description="a SavedModel of TensorFlow")
    signature: str = Field(
        "serving_default", min_length=1, description="the model's signature: what it takes and gives"
    )
    preprocessing: str | None = Field(
        None, description="folder of a SavedModel that stands in front, whose outputs are the model's inputs"
    )
    size: Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(as_tuple)] | None = Field(
        None,
        description="of images: [height, width] that they are resized to, where the signature leaves it open",
    )
    value_range: Annotated[tuple[float, float], BeforeValidator(as_tuple)] = Field(
        (0.0, 1.0),
        description="of images: what 0 and 255 of a pixel become, where the model takes floats: [0, 1], "
        "[-1, 1], [0, 255]",
    )

    @model_validator(mode="after")
    def _nothing_is_compiled(self) -> Self:
        if self.compile is True:
            raise ValueError("family tensorflow runs a SavedModel as it is: leave compile out")
        return self

    def _check_output(self, output: OutputSpec) -> None:
        # Not that of images: texts may have shorter vectors.
        EncoderSpec._check_output(self, output)
        if output.layer != -1:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: a signature has outputs by name; "
                "name one (tensor)"
            )

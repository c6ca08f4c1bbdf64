"""Images per second of the whole job against other ways to embed the same files.

And what scale does to plan, memory and resume.

speed   JPEG photographs through ViT-B/16 and a small ViT, seeded, beside others in turn
decode  how fast one core decodes and resizes, and how far draft is from exact
scale   200,000 tiny images in tars, killed and resumed; a folder of 100,000 files planned
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from contest import Found, compared, in_turn, our_sides, ours, peer
from PIL import Image
from record import spread, write_record
from sklearn.datasets import load_digits, load_sample_images

from embed_ops import Run
from embed_ops.embedding.parity import cosines
from embed_ops.encoders.images.encoder import ImageEncoder
from embed_ops.encoders.images.processors import read_preprocessing
from embed_ops.spec.encoder import ImageEncoderSpec

FIGURES = ("utilization", "gemm_flops_per_second", "flops_per_second")
SIZES: dict[str, dict[str, int]] = {
    "vit-b16": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "vit-tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "vit-small": {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    },
}
PEER_NAMES = ("pipeline", "ray")


def write_model(name: str, folder: Path, side: int = 224, patch: int = 16) -> Path:
    """Save a ViT with seeded weights and its processor."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=side, patch_size=patch, **SIZES[name])
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder / name)
    transformers.ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder / name)
    return folder / name


def write_photographs(folder: Path, count: int) -> Path:
    """Write JPEG files: parts of scikit-learn's two photographs, enlarged to about a megapixel."""
    photos = [Image.fromarray(values) for values in load_sample_images().images]
    rng = np.random.default_rng(0)
    place = folder / "photographs"
    for number in range(count):
        photo = photos[number % 2]
        width = int(rng.integers(200, photo.width))
        height = int(rng.integers(150, photo.height))
        left, top = (
            int(rng.integers(0, photo.width - width + 1)),
            int(rng.integers(0, photo.height - height + 1)),
        )
        scale = float((rng.integers(600, 1400) * 1000 / (width * height)) ** 0.5)
        part = photo.crop((left, top, left + width, top + height)).resize(
            (int(width * scale), int(height * scale))
        )
        # Folders of forty: units enough for all replicas, however few images there are.
        target = place / f"{number // 40:03d}" / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        part.save(target, quality=88)
    return place


def command(source: list[str], model: Path, words: list[str], run: Path) -> list[str]:
    """Give the line of our command."""
    line = [
        sys.executable,
        "-m",
        "embed_ops",
        "embed",
        *source,
        "encoder.family=image",
        f"encoder.model={model}",
        f"sink.path={run}",
    ]
    return [*line, *words, "--progress", "none"]


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all sides in turn."""
    figures: dict[str, Any] = {}
    images = write_photographs(folder, options.images)
    source, against, mine = (
        ["source.kind=images", f"source.path={images}"],
        options.against.split(","),
        our_sides(options.words),
    )
    for name in options.models.split(","):
        model = write_model(name, folder)
        run: dict[str, Callable[[], Found]] = {
            side: partial(peer, "image_peers.py", side, images, str(model), folder) for side in against
        }
        run |= {
            side: partial(ours, partial(command, source, model, words), folder, (*FIGURES, "idle"))
            for side, words in mine.items()
        }
        sys.stdout.write(f"{name}:\n")
        runs, vectors = in_turn(run, options.repeats, "images/s")
        figures[name] = compared(runs, vectors, mine, against, "images/s", FIGURES)
        for side in mine:
            figures[name][f"{side} waiting for input"] = spread(
                [found["idle"]["input"] for found in runs[side]]
            )
            figures[name][f"{side} time and settings of the last run"] = [
                runs[side][-1]["time"],
                runs[side][-1]["resolved"],
            ]
    return figures


def decode(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Decode and resize on one core, exactly and with draft.

    At the photographs' own size, and at twelve megapixels.
    """
    model = write_model("vit-small", folder)
    steps, figures = read_preprocessing(model), {}
    photos = [
        path.read_bytes() for path in sorted(write_photographs(folder, options.images).rglob("*.jpg"))[:200]
    ]
    large = []
    for content in photos[:24]:
        target = io.BytesIO()
        Image.open(io.BytesIO(content)).resize((4000, 3000)).save(target, "JPEG", quality=88)
        large.append(target.getvalue())
    for name, contents in (("about 1 megapixel", photos), ("12 megapixels", large)):
        turns: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.repeats):
            for draft, found in turns.items():
                began = time.perf_counter()
                for content in contents:
                    steps.pixels(content, 1 << 27, draft=draft)
                found.append(len(contents) / (time.perf_counter() - began))
        figures[f"{name}: images/s a core, exact"] = spread(turns[False])
        figures[f"{name}: images/s a core, draft"] = spread(turns[True])
        vectors = []
        for draft in (False, True):
            encoder = ImageEncoder(ImageEncoderSpec(model=str(model), draft=draft))
            encoder.load("cpu", "float32")
            vectors.append(encoder.launch(encoder.prepare(_column(contents)).inputs)()["embedding"])
        close = cosines(vectors[0], vectors[1])
        figures[f"{name}: cosine of draft to exact"] = {
            "mean": float(close.mean()),
            "min": float(close.min()),
        }
    return figures


def _column(contents: list[bytes]) -> Any:
    import pyarrow as pa

    return pa.array(contents, pa.binary())


def write_tars(folder: Path, count: int) -> Path:
    """Write tiny images as WebDataset tars of 10,000: digits, shifted and inverted in many ways."""
    digits = (load_digits().images * 15.9375).astype(np.uint8)
    place = folder / "tars"
    place.mkdir()
    for first in range(0, count, 10_000):
        with tarfile.open(place / f"{first // 10_000:05d}.tar", "w") as archive:
            for number in range(first, min(count, first + 10_000)):
                turned = np.roll(
                    digits[number % len(digits)], (number // 1797 % 8, number // 14_376 % 8), axis=(0, 1)
                )
                target = io.BytesIO()
                Image.fromarray(turned).save(target, "PNG")
                info = tarfile.TarInfo(f"{number:07d}.png")
                info.size = target.tell()
                archive.addfile(info, io.BytesIO(target.getvalue()))
    return place


def _digest(run: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for name in ("data", "rejects") for path in (run / name).rglob("*.parquet")):
        digest.update(str(path.relative_to(run)).encode() + path.read_bytes())
    return digest.hexdigest()


def scale(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Embed many tiny images, again with a kill in the middle, and plan a large folder."""
    model = write_model("vit-small", folder, side=16, patch=8)
    source = ["source.kind=webdataset", f"source.path={write_tars(folder, options.tiny)}"]
    words = ["encoder.dtype=float32", "parity.rows=0", *options.words]
    whole = folder / "whole"
    subprocess.run(command(source, model, words, whole), check=True, capture_output=True)
    report = Run(str(whole)).report
    process = subprocess.Popen(
        command(source, model, words, folder / "killed"), start_new_session=True, stdout=subprocess.DEVNULL
    )
    while (
        process.poll() is None
        and sum(1 for _ in (folder / "killed" / "data").rglob("*.parquet")) < report["units"] // 2
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command(source, model, words, folder / "killed"), check=True, capture_output=True)
    again = Run(str(folder / "killed")).report
    files = folder / "many"
    for number in range(options.files):
        place = files / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(b"x")
    took = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        line = [
            sys.executable,
            "-m",
            "embed_ops",
            "plan",
            "source.kind=images",
            f"source.path={files}",
            "encoder.family=image",
        ]
        subprocess.run(
            [*line, f"encoder.model={model}", f"sink.path={folder / 'none'}"], check=True, capture_output=True
        )
        took.append(time.perf_counter() - began)
    return {
        "tiny images": report["rows"],
        "units": report["units"],
        "images/s, steady": report["rows_per_second"],
        "peak bytes by kind of process": report["peak_memory"],
        "killed after units": again["units_skipped"],
        "bytes after the kill are the same": _digest(whole) == _digest(folder / "killed"),
        f"seconds to plan a folder of {options.files} files, whole command": spread(took),
    }


def main() -> None:
    """Measure, print, and write a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"speed": speed, "decode": decode, "scale": scale}
    parser.add_argument("--part", choices=[*parts], action="append")
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--tiny", type=int, default=200_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", default=",".join(PEER_NAMES))
    parser.add_argument("words", nargs="*", help="section.key=value for our side")
    options = parser.parse_args()
    for part in options.part or parts:
        with tempfile.TemporaryDirectory() as name:
            figures = parts[part](options, Path(name))
        settings = {name: value for name, value in vars(options).items() if name != "part"}
        path = write_record(f"images-{part}", settings, figures)
        sys.stdout.write(json.dumps(figures, indent=2) + f"\nrecord in {path}\n")


if __name__ == "__main__":
    main()

"""Train a small ViT on half of the digits, embed the other half, classify by neighbours.

    python examples/train_digits_vit.py out/digits        about two minutes on two cores

It writes out/digits/model (a transformers folder with its processor), out/digits/corpus/train and
.../test (PNG files in a folder for each class) and the runs out/digits/train and out/digits/test.
What it prints last: the share of the held-out half whose class is that of its nearest five training
images, by cosine, for the trained model and for the one it began with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from embed_ops import Run, Spec, embed

SIDE, PATCH = 16, 4
EPOCHS, BATCH, RATE = 120, 32, 1e-3
NEIGHBOURS = 5

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
PROCESSOR = transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def halves() -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Give the two halves of the digits: (images, 8, 8) pixels and (images,) classes each."""
    digits = load_digits()
    pixels, classes = (digits.images * 255 / 16).astype(np.uint8), digits.target
    order = np.random.default_rng(0).permutation(len(pixels))
    return [(pixels[chosen], classes[chosen]) for chosen in np.array_split(order, 2)]


def write_images(folder: Path, pixels: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]) -> None:
    """Write PNG files in a folder for each class."""
    for number, (image, label) in enumerate(zip(pixels, classes, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:04d}.png")


def train(pixels: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64], say: Console) -> tuple[Any, Any]:
    """Train with cross entropy and one-cycle learning rates.

    Gives the model as it began and as it ended.
    """
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=SIDE, patch_size=PATCH, num_labels=10, **SIZES)
    first = transformers.ViTModel(config, add_pooling_layer=False)
    model = transformers.ViTForImageClassification(config)
    model.vit.load_state_dict(first.state_dict(), strict=False)
    values = PROCESSOR(
        images=[Image.fromarray(image).convert("RGB") for image in pixels], return_tensors="pt"
    )["pixel_values"]
    targets = torch.from_numpy(classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(values) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        correct = 0
        for chosen in torch.randperm(len(values)).split(BATCH):
            # A shift by up to two pixels: the digits are few.
            moved = torch.roll(values[chosen], tuple(torch.randint(-2, 3, (2,)).tolist()), dims=(2, 3))
            scores = model(pixel_values=moved).logits
            loss = torch.nn.functional.cross_entropy(scores, targets[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            correct += int((scores.argmax(1) == targets[chosen]).sum())
        if (epoch + 1) % 20 == 0:
            say.print(f"epoch {epoch + 1}: {correct / len(values):.1%} of the training half right")
    return first.eval(), model.vit.eval()


def vectors(model: Path, corpus: Path, run: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Embed a folder through the job.

    (images, dim) vectors and (images,) classes, from the names of the folders.
    """
    tree = {
        "source": {"kind": "images", "path": str(corpus), "keep": ["label"]},
        "encoder": {
            "family": "image",
            "model": str(model),
            "outputs": [{"name": "embedding", "pooling": "cls", "normalize": True}],
        },
        "sink": {"path": str(run)},
    }
    found: Run = embed(Spec.parse(tree))
    table = found.open().to_table(columns=["embedding", "label"])
    flat = table.column("embedding").combine_chunks().flatten().to_numpy()
    return flat.reshape(len(table), -1), np.array([int(label) for label in table.column("label").to_pylist()])


def main(folder: Path) -> dict[str, float]:
    """Train, embed both halves, and give the accuracies."""
    say = Console()
    learned, held_out = halves()
    for name, half in (("train", learned), ("test", held_out)):
        write_images(folder / "corpus" / name, *half)
    found = {}
    for name, model in zip(("as it began", "trained"), train(*learned, say), strict=True):
        place = folder / ("model" if name == "trained" else "untrained")
        model.save_pretrained(place)
        PROCESSOR.save_pretrained(place)
        runs = folder / "runs" / name.replace(" ", "-")
        x, y = vectors(place, folder / "corpus" / "train", runs / "train")
        probe = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(x, y)
        x, y = vectors(place, folder / "corpus" / "test", runs / "test")
        found[name] = float((probe.predict(x) == y).mean())
        say.print(
            f"{name}: {found[name]:.1%} of {len(y)} held-out digits have the class of their nearest "
            f"{NEIGHBOURS} neighbours"
        )
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits"))

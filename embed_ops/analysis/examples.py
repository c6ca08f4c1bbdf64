"""The examples that the package brings, copied to where a user can change them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from embed_ops.errors import SpecError, StorageError
from embed_ops.terminal import plain

_ENDINGS = (".toml", ".py", ".ipynb")


def copy_examples(folder: Path) -> int:
    """Copy specs, programs and notebooks to a folder; gives the number of files.

    Raises:
        SpecError: the folder is a file, or has a file of the same name and other contents; nothing
            is copied then.
        StorageError: the folder can't be written.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{plain(str(folder))}: is a file; name a folder for the examples")
    examples = {
        name: file.read_bytes() for name, file in _listed(files("embed_ops") / "examples", PurePosixPath())
    }
    try:
        for name, content in examples.items():
            place = folder / name
            if place.exists() and (not place.is_file() or place.read_bytes() != content):
                raise SpecError(
                    f"{plain(str(place))}: is there already with other contents; name a new folder"
                )
        for name, content in examples.items():
            _write(folder / name, content)
    except OSError as error:
        raise StorageError(f"{plain(str(folder))}: can't be written: {error.strerror or error}") from error
    return len(examples)


def _listed(folder: Traversable, below: PurePosixPath) -> Iterator[tuple[str, Traversable]]:
    """List the examples by their paths, in order."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_file() and entry.name.endswith(_ENDINGS):
            yield str(below / entry.name), entry
        elif entry.is_dir() and not entry.name.startswith(("_", ".")):
            yield from _listed(entry, below / entry.name)


def _write(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.new")
    temporary.write_bytes(content)
    temporary.replace(place)

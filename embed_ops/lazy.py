"""What is imported only where it is used: classes that registries name, and packages of extras."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from importlib import metadata
from types import ModuleType
from typing import cast

from embed_ops.errors import PackageError


def installed(module: str, extra: str, purpose: str) -> str:
    """Give the version of the package that brings a module, without importing it.

    Args:
        module: of the package.
        extra: of embed-ops, that installs it.
        purpose: as of `require`.

    Raises:
        PackageError: it is not installed; says what to run.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra, purpose)
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        # Another package brings it: that for CPUs, or for GPUs.
        return metadata.version(metadata.packages_distributions()[module][0])


def _missing(package: str, extra: str, purpose: str) -> PackageError:
    return PackageError(
        f"{purpose} needs the package {package}, which is not installed: pip install 'embed-ops[{extra}]'"
    )


def load_class(address: str) -> type:
    """Import the class at an address, `module:Class`."""
    return cast(type, pkgutil.resolve_name(address))


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of a package that only an extra brings.

    Args:
        module: to import.
        extra: of embed-ops, that installs it.
        purpose: what needs it, as the beginning of a sentence: "source.where", "--format faiss".

    Raises:
        PackageError: it is not installed; says what to run.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise _missing(package, extra, purpose) from error

"""Loads a class by its address: what a registry names is imported where it is used."""

from __future__ import annotations

import pkgutil
from typing import cast


def load_class(address: str) -> type:
    """Import the class at an address, `module:Class`."""
    return cast(type, pkgutil.resolve_name(address))

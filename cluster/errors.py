"""What can go wrong between a command and the cluster it asks for.

    ClusterError        3   nothing answers there, it refuses, or it broke off: mend the cluster and run the command again
    └── AddressError    2   what was asked for can't be meant: an address without a port, an option that is not there

A message says what, where, what was found and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class ClusterError(Exception):
    """A cluster can't be reached or refuses. See its message, and run the same command again."""

    exit_code: ClassVar[int] = 3


class AddressError(ClusterError):
    """An address or an option is not usable as it stands. Correct it."""

    exit_code: ClassVar[int] = 2

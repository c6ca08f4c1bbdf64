"""Secrets that stand in addresses and messages, and how none of them is kept or shown.

An address may bring its credentials: `s3://KEY:SECRET@bucket`, `https://...?X-Amz-Signature=...`.
The command that is given it uses them. What is written to a run directory, to a page, a log or a
terminal goes through `redacted` first.
"""

from __future__ import annotations

import re
from typing import Any

MARK = "redacted"
"""Stands where a secret stood. A plain word, so that an address stays one and is no pattern."""

_NAMES = (
    r"[\w.-]*(?:signature|credentials?|secret|password|passwd|passphrase|token|api[_-]?key|apikey"
    r"|access[_-]?key(?:[_-]?id)?|account[_-]?key|private[_-]?key|accesskeyid)"
    r"|key-pair-id|sig|key|auth|authorization|policy|pwd|pass|jwt|hdnts|hdnea"
)
_SCHEME = r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)"
_WEB = frozenset({"http://", "https://"})
_STORES = frozenset({"s3://", "s3a://", "s3n://", "gs://", "gcs://", "oss://", "r2://"})
_USER = re.compile(rf"{_SCHEME}(?P<who>[^\s/?#'\"<>]*)@")
_SLASHED = re.compile(rf"{_SCHEME}(?P<who>[^\s/?#@:'\"<>]*:(?!\d+/)[^\s@:?#'\"<>]*/[^\s@?#'\"<>]*)@")
"""A secret key of AWS may have slashes, and is often written as it is."""
_ENDS = r"\s&;#'\"<>)\]}"
_OPTION = re.compile(rf"(?i)(?P<name>[?&;#](?:{_NAMES})=)[^{_ENDS}]*[^{_ENDS}:,.]")
_TOKENS = re.compile(
    r"\bhf_(?:[a-z]{10,}|(?=[A-Za-z0-9]*[A-Z0-9])[A-Za-z0-9]{8,})|\bapi_org_[A-Za-z0-9]{10,}"
    r"|\bgh[oprsu]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
)
_HEADER = re.compile(
    r"(?i)(?P<name>\bauthorization\b['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?|\bbearer\s+)[\w.~+/=-]{8,}"
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_KEPT_USER = re.compile(rf"(?P<scheme>://)(?:(?P<user>[^\s/@:]+):)?{MARK}@")
_KEPT_OPTION = re.compile(rf"(?P<sign>[?&;#])[^?&;#=]+={MARK}(?=$|[&;#])")


def redacted(text: str) -> str:
    """Give a text without the secrets of the addresses in it, and without known kinds of tokens.

    A text that has none is given back as it is.
    """
    if "://" in text:
        text = _USER.sub(_without_secret, _SLASHED.sub(_without_secret, text))
    if "=" in text:
        text = _OPTION.sub(rf"\g<name>{MARK}", text)
    return _HEADER.sub(rf"\g<name>{MARK}", _TOKENS.sub(MARK, text))


def _without_secret(found: re.Match[str]) -> str:
    scheme, (user, colon, _) = found["scheme"], found["who"].partition(":")
    if scheme.lower() in _WEB or (colon and scheme.lower() in _STORES):
        return f"{scheme}{MARK}@"
    return f"{scheme}{user}:{MARK}@" if colon else found[0]


def redacted_tree(value: Any) -> Any:
    """Give JSON values with every string redacted that is an address as a whole.

    Other strings stay, since a template, a condition or a prompt decides vectors.
    """
    if isinstance(value, dict):
        return {name: redacted_tree(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_tree(item) for item in value]
    return redacted(value) if isinstance(value, str) and _ADDRESS.match(value) else value


def holds_secret(value: Any) -> bool:
    """Tell whether an address among JSON values brings a secret."""
    if isinstance(value, dict):
        return any(map(holds_secret, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_secret, value))
    return bool(redacted_tree(value) != value)


def usable(address: str) -> str:
    """Give an address that was kept without secrets as one whose secrets the environment has."""
    if MARK not in address:
        return address
    address = _KEPT_USER.sub(lambda kept: f"://{kept['user']}@" if kept["user"] else "://", address)
    bare = _KEPT_OPTION.sub(lambda kept: kept["sign"] if kept["sign"] in "?#" else "", address)
    if bare == address:
        return address
    return re.sub(r"\?(?=#|$)", "", re.sub(r"\?[&;]", "?", bare)).rstrip("#&;")

"""The card of a run: when, what, where and for how much; and the settings that somebody chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from embed_ops.analysis.page.gather import Gathered
from embed_ops.errors import EmbedOpsError
from embed_ops.redaction import redacted, redacted_tree
from embed_ops.runs.header import RunHeader
from embed_ops.spec.spec import Spec
from embed_ops.terminal import plain_line

_LONG = 12
"""Digits of a revision or a checksum that are shown."""
_FIGURES = 4
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """Word how long something took."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE)} s"
    if seconds < _DAY:
        return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"
    return f"{int(seconds // _DAY)} d {int(seconds % _DAY // _HOUR)} h"


def size(number: int) -> str:
    """Word a number of bytes."""
    value = float(number)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if value >= 10 or unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def card(gathered: Gathered, price: float | None) -> list[tuple[str, str]]:
    """List what one wants to know of a run first, a (name, value) each.

    What is not known is left out.
    """
    header, report = gathered.header, gathered.report
    rows = sum(record.rows for record in gathered.records)
    facts = {
        "date": _date(header),
        "status": gathered.run.status,
        "model": _model(header),
        "stage": _stage(header),
        "rows": f"{rows:,}",
        "data": size(sum(record.bytes for record in gathered.records)),
        "time": _time(header),
        "cost": _cost(header, rows, price),
        "computed on": _device(header, report),
        "machine": _machine(report),
        "version": _versions(header),
        "command": report.get("command") or _made_by(header),
    }
    return [(name, plain_line(value)) for name, value in facts.items() if value]


def _date(header: RunHeader) -> str:
    at = header.finished or header.started
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC" if at else ""


def _model(header: RunHeader) -> str:
    model = header.model or {}
    name = redacted(str(model.get("model") or ""))
    if name.startswith("/"):
        # The folder of a package or of a training says nothing by its last name alone.
        name = "/".join(name.rstrip("/").split("/")[-2:])
    if name and model.get("commit"):
        return f"{name}, revision {str(model['commit'])[:_LONG]}"
    weights = next((of for key, of in header.fingerprint.items() if key.endswith(".safetensors")), None)
    return f"{name}, weights {weights[:_LONG]}" if name and weights else name


def _stage(header: RunHeader) -> str:
    return f"{header.spec.get('kind', '')} of {header.parent}" if header.parent is not None else ""


def seconds_of(header: RunHeader) -> float:
    """Add up how long the commands took that came to their end."""
    return sum(entry.finished - entry.started for entry in header.attempts if entry.finished is not None)


def _time(header: RunHeader) -> str:
    ended = sum(entry.finished is not None for entry in header.attempts)
    if not ended:
        return ""
    left = len(header.attempts) - ended
    broken = f", without {left} that came to no end" if left else ""
    several = f", {ended} commands" if ended > 1 else ""
    return f"{duration(seconds_of(header))}{several}{broken}"


def _cost(header: RunHeader, rows: int, price: float | None) -> str:
    if price is None or not seconds_of(header):
        return ""
    cost = price * seconds_of(header) / _HOUR
    return f"{cost:,.4f} at {price:g} an hour, {cost / max(1, rows) * 1e6:,.2f} for a million rows"


def _device(header: RunHeader, report: Mapping[str, Any]) -> str:
    known = report.get("devices") or [header.resolved.get("device")]
    names = ["CPU" if name == "cpu" else str(name) for name in known if name]
    dtype = header.resolved.get("dtype")
    on = ", ".join(names)
    return f"{on}, {dtype}" if on and dtype else on


def _machine(report: Mapping[str, Any]) -> str:
    known = report.get("machine") or {}
    if not known:
        return ""
    cores = f"{known['cores']} cores" if known.get("cores") else ""
    memory = size(known["memory"]) if known.get("memory") else ""
    return ", ".join(part for part in (known.get("host"), known.get("processor"), cores, memory) if part)


def _versions(header: RunHeader) -> str:
    versions = header.resolved.get("versions") or {}
    shown = ("embed-ops", "torch", "transformers", "numpy")
    return ", ".join(f"{name} {versions[name]}" for name in shown if versions.get(name))


def _made_by(header: RunHeader) -> str:
    return "" if header.parent is not None or not header.attempts else "embed(), from Python"


def settings(header: RunHeader) -> list[tuple[str, str]]:
    """List the settings of a run that are not the defaults, a (name, value) each."""
    tree: Mapping[str, Any] = {name: of for name, of in header.spec.items() if of not in (None, [], {}, "")}
    if header.parent is None:
        with suppress(EmbedOpsError):
            tree = Spec.parse(header.spec).model_dump(mode="json", exclude_defaults=True)
    return [(name, plain_line(value)) for name, value in _flat(redacted_tree(tree))]


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value, 1):
                yield from _flat(item, f"{before}{name}[{number}].")
        elif value is not None:
            yield f"{before}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def stages(reports: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Word the stages below a run: name, kind, rows, and their first figures."""
    told = []
    for item in reports:
        figures = {**(item.get("model") or {}), **(item.get("quality") or {})}
        worded = [
            f"{name.replace('_', ' ')} {f'{value:,}' if isinstance(value, int) else f'{value:,.4g}'}"
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        told.append(
            {
                "name": plain_line(str(item["name"])),
                "kind": plain_line(str(item["kind"])),
                "rows": f"{item['rows']:,}",
                "figures": ", ".join(worded[:_FIGURES]),
            }
        )
    return told

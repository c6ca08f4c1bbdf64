"""What decides the bytes is kept with a run and held against what is asked for later."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from embed_ops.embedding.settings import fingerprint, resolve, resume
from embed_ops.errors import RunError
from embed_ops.runs.fingerprint import digest_of, require_same
from embed_ops.spec.spec import Spec


def spec(**sections: dict[str, Any]) -> Spec:
    """Make a spec, with fields of some sections replaced."""
    tree: dict[str, Any] = {
        "source": {"path": "in", "column": "text"},
        "encoder": {"model": "m"},
        "sink": {"path": "out"},
    }
    for name, fields in sections.items():
        tree[name] = tree.get(name, {}) | fields
    return Spec.parse(tree)


CHANGES = [
    ({"source": {"column": "other"}}, "source.column"),
    ({"source": {"where": "a = 1"}}, "source.where"),
    ({"source": {"limit": 5}}, "source.limit"),
    ({"source": {"keep": ["id"]}}, "source.keep"),
    ({"encoder": {"prompt": "query: "}}, "encoder.prompt"),
    ({"encoder": {"max_tokens": 9}}, "encoder.max_tokens"),
    ({"encoder": {"outputs": [{"pooling": "cls"}]}}, "encoder.outputs"),
    ({"sink": {"dtype": "float16"}}, "sink.dtype"),
    ({"resources": {"unit_rows": 7}}, "resources.unit_rows"),
]


@pytest.mark.parametrize(("sections", "named"), CHANGES, ids=[named for _, named in CHANGES])
def test_what_changes_vectors_changes_the_fingerprint(sections: dict[str, Any], named: str) -> None:
    """Every field that touches the bytes is named with both values when it differs."""
    known, asked = fingerprint(spec(), {"weights": "1"}), fingerprint(spec(**sections), {"weights": "1"})
    assert digest_of(known) != digest_of(asked)
    with pytest.raises(RunError, match=re.escape(f"{named}: the run has")):
        require_same("out", known, asked)


def test_other_weights_are_another_fingerprint() -> None:
    """The same spec over other weights is refused, and the file is named."""
    with pytest.raises(RunError, match=r"model weights: the run has \"1\", asked for \"2\""):
        require_same("out", fingerprint(spec(), {"weights": "1"}), fingerprint(spec(), {"weights": "2"}))


@pytest.mark.parametrize(
    "section", [{"sink": {"path": "elsewhere"}}, {"resources": {"replicas": 9}}, {"parity": {"rows": 1}}]
)
def test_what_does_not_change_vectors_does_not(section: dict[str, Any]) -> None:
    """Places, replicas and checks may change between attempts."""
    assert fingerprint(spec(), {}) == fingerprint(spec(**section), {})


def test_resolved_settings_are_kept() -> None:
    """What "auto" became stays.

    An explicit other value, another device or library version is refused by name.
    """
    known = dataclasses.asdict(resolve(spec(resources={"token_budget": 512})))
    assert resume("out", known, spec()).token_budget == 512
    for section, named in (
        ({"encoder": {"dtype": "bfloat16"}}, "encoder.dtype"),
        ({"resources": {"token_budget": 64}}, "resources.token_budget"),
        ({"resources": {"threads_per_replica": 2}}, "resources.threads_per_replica"),
        ({"resources": {"gpus_per_replica": 1.0}}, "device"),
    ):
        with pytest.raises(RunError, match=re.escape(named)):
            resume("out", known, spec(**section))
    older = known | {"versions": known["versions"] | {"torch": "1.0"}}
    with pytest.raises(RunError, match=r"version of torch: the run has \"1.0\""):
        resume("out", older, spec())

"""No block of any page is left out: each is run, or checked for a reason that stands beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import LANGUAGES, NEEDS, PAGES, ROOT, Block, before, blocks, check, check_command, commands

import embed_ops
from embed_ops import Spec

EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
ALL = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}
BLOCKS = [block for page in ALL.values() for block in page]


def test_every_block_is_seen() -> None:
    """As many fences as the pages have lines that open one; each says what it is."""
    fences = [
        line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if "```" in line
    ]
    assert len(fences) == 2 * len(BLOCKS) > 100
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_are_understood(block: Block) -> None:
    """Options and fields are known, specs validate, code compiles; what is not run says why."""
    check(block)
    assert set(block.marks) <= {"file", "needs", "by", "package"}
    assert block.marks.get("needs", NEEDS[0]) in NEEDS
    if by := block.marks.get("by"):
        assert list((ROOT / "tests").rglob(f"{by}.py")) != []
    if block.language in ("bash", "python"):
        assert block.runs or {"needs", "by", "package"} & set(block.marks)


def test_pages_go_on_from_pages() -> None:
    """A page's session begins where another one's ends, which begins by itself."""
    for page in PAGES:
        if (left := before(page)) is not None:
            assert left.is_file()
            assert before(left) is None


def test_most_blocks_run() -> None:
    """The reasons why blocks are not run here stay few."""
    code = [block for block in BLOCKS if block.language in ("bash", "python")]
    left = [block for block in code if "needs" in block.marks]
    assert len(left) < len(code) / 4, [str(block) for block in left]


def test_what_is_not_understood_is_refused() -> None:
    """An option, a field, a program and a spec that are none."""

    def block(language: str, code: str) -> Block:
        return Block("page", 1, language, code)

    for language, code in (
        ("bash", "embed-ops embed run.toml --nonsense"),
        ("bash", "embed-ops embed run.toml source.colunm=text"),
        ("bash", "cd x && python nothing.py"),
        ("bash", "embed-ops 'embed"),
        ("toml", "[source]\npath = 1"),
        ("toml", "[[stage]]\nkind = 'kmeens'"),
        ("python", "def"),
    ):
        with pytest.raises(BaseException):  # noqa: B017, PT011 - of bash, typer, pydantic, Python
            check(block(language, code))


def head_of(example: Path) -> str:
    """Give the commands in the comment that an example begins with."""
    text = example.read_text(encoding="utf-8").split("\n\n[")[0]
    told = "\n".join(re.findall(r"^#   (.*)$", text, re.MULTILINE))
    lines = re.sub(r"\\\n\s*", " ", told).splitlines()
    return "\n".join(line for line in lines if re.match(r"embed-ops |python |pip |export ", line))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_specs(path: Path) -> None:
    """Each example is a whole spec, named after its family; its commands are understood."""
    assert path.name.startswith(Spec.load(path).encoder.family)
    told = list(commands(head_of(path)))
    assert any(path.name in words for words in told)
    for words in told:
        check_command(words)


def test_the_package_brings_the_examples() -> None:
    """What `embed-ops examples` copies is what lies in `examples/`."""
    inside = Path(embed_ops.__file__).parent / "examples"
    assert {path.name for path in inside.iterdir()} >= {path.name for path in EXAMPLES}

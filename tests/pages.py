"""The pages of the documentation, taken apart: their fenced blocks, headings, anchors and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands after the fence, its text, and where it is."""

    page: Path
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    info = ""
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if start is None:
                start, info = number, line.removeprefix("```").strip()
            else:
                yield Block(page, start, info, "\n".join(lines[start : number - 1]) + "\n")
                start = None
    assert start is None, f"{page.name}:{start} is never closed"


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def prose(page: Path) -> list[str]:
    """The lines outside fenced blocks."""
    inside = False
    lines: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            lines.append(line)
    return lines


def headings(page: Path) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    return [(len(found[1]), found[2]) for line in prose(page) if (found := re.fullmatch(r"(#+) (.+)", line))]


def anchor(heading: str) -> str:
    """The anchor that is made of a heading."""
    text = re.sub(r"[`*]|\\(?=_)", "", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def tables(lines: list[str]) -> list[list[list[str]]]:
    """The cells of every table: of its header first, then of each row; rulers are left out."""
    found: list[list[list[str]]] = []
    before = ""
    for line in lines:
        if line.startswith("|") and not before.startswith("|"):
            found.append([])
        if line.startswith("|") and not re.fullmatch(r"[| -]+-[| -]*", line):
            found[-1].append([cell.strip() for cell in line.split("|")[1:-1]])
        before = line
    return found


def rows(lines: list[str]) -> list[list[str]]:
    """The cells of every table row, without headers and rulers."""
    return [row for table in tables(lines) for row in table[1:]]


def named(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def section(page: Path, heading: str) -> list[str]:
    """The lines outside fenced blocks under a heading of the second level."""
    lines = prose(page)
    start = lines.index(f"## {heading}")
    stop = next((i for i, line in enumerate(lines[start + 1 :], start + 1) if line.startswith("## ")), len(lines))
    return lines[start:stop]

"""What a reader of the Markdown documents is told: blocks of code, commands, links, files."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FOLDERS = "configuration|docs|modeling_limssr|processing|src|tests|training"
FILE = re.compile(rf"`((?:{FOLDERS})/[\w./*{{}},-]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: `python`, `bash`, or empty for output and trees of files.
        line: number of its first line in the page.
    """

    language: str
    line: int
    text: str


def page_name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], text.count("\n", 0, found.start()) + 2, found[2]) for found in FENCE.finditer(text)]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def read_commands(block: Block) -> list[list[str]]:
    """Words of each command of a shell block, without comments and optional `[--flag VALUE]`; `a && b` are two."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        command, is_optional = [], False
        for word in shlex.split(line, comments=True):
            is_optional |= word.startswith("[")
            if word == "&&":
                commands.append(command)
                command = []
            elif not is_optional:
                command.append(word)
            is_optional &= not word.endswith("]")
        commands.append(command)
    return [command for command in commands if command]

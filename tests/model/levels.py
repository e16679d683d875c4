"""500 texts as people send them, half of them hostile, for comparing two engines.

The harmless ones are paragraphs of this project's own documentation and code;
the hostile ones have an injection composed into such a paragraph. A paragraph's
place depends on nothing but itself, so that an edit changes a few texts and not all.
"""

from dataclasses import replace
from pathlib import Path
from zlib import crc32

from alknet_firewall.alarm import Role
from alknet_firewall.training.compose import ComposeOptions, compose
from alknet_firewall.training.data_loader import Example

_ROOT = Path(__file__).parents[2]
_HARMLESS, _GROUPS = 250, 25
_POISONED = replace(ComposeOptions.none(), poisoned=_HARMLESS // _GROUPS)


def _paragraphs() -> list[str]:
    files = [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md"), *(_ROOT / "src").rglob("*.py")]
    pieces = (piece.strip() for file in files for piece in file.read_text("utf-8").split("\n\n"))
    return sorted({piece for piece in pieces if len(piece) > 80}, key=_number)[:_HARMLESS]


def _number(text: str) -> int:
    return crc32(text.encode())


def _poisoned(paragraphs: list[str], group: int) -> list[str]:
    carriers = [
        Example(text, "benign", "benign_document", "tool", "docs")
        for text in paragraphs
        if _number(text) % _GROUPS == group
    ]
    return [poisoned.text for poisoned in compose(carriers, _POISONED, seed=group)]


def _texts() -> list[str]:
    harmless = _paragraphs()
    hostile = [text for group in range(_GROUPS) for text in _poisoned(harmless, group)]
    return [*harmless, *hostile]


def _role(text: str) -> Role:
    return "user" if _number(text) % 2 else "tool"


LEVEL_TEXTS = [(text, _role(text)) for text in _texts()]

"""500 texts as people send them, half of them hostile, for comparing two engines.

The harmless ones are paragraphs of this project's own documentation and code;
the hostile ones have an injection composed into such a paragraph.
"""

from dataclasses import replace
from pathlib import Path

from alknet_firewall.alarm import Role
from alknet_firewall.training.compose import ComposeOptions, compose
from alknet_firewall.training.data_loader import Example

_ROOT = Path(__file__).parents[2]


def _paragraphs() -> list[str]:
    documents = [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")]
    files = [*sorted(documents), *sorted((_ROOT / "src").rglob("*.py"))]
    pieces = (piece.strip() for file in files for piece in file.read_text("utf-8").split("\n\n"))
    return [piece for piece in pieces if len(piece) > 80]


_HARMLESS = _paragraphs()[:250]
_CARRIERS = [Example(text, "benign", "benign_document", "tool", "docs") for text in _HARMLESS]
_POISONED = replace(ComposeOptions.none(), poisoned=500 - len(_HARMLESS))
_HOSTILE = [poisoned.text for poisoned in compose(_CARRIERS, _POISONED, seed=0)]

LEVEL_TEXTS: list[tuple[str, Role]] = [
    (text, "user" if number % 2 else "tool") for number, text in enumerate([*_HARMLESS, *_HOSTILE])
]

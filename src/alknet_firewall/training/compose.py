"""Poisoned documents made from harmless ones.

Public data holds few documents with an injection in them, and those few share
carriers and phrases. Here a harmless document of the training data gets a
wrapper and a payload at some place; the injected string is recorded, so that
each window can be labelled by what it holds. As many documents get a harmless
sentence of another document instead: a foreign body is not yet an attack.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Sequence
from importlib import resources

from .data_loader import Example

__all__ = ["compose"]

_LONGEST_CARRIER = 2500  # characters; more adds time and no variety
_LONGEST_TASK = 300
_BREAK = re.compile(r"(?<=[.!?;,>}\]])\s+|\n+")


def compose(examples: Sequence[Example], poisoned: int, mixed: int, seed: int) -> list[Example]:
    """`poisoned` attacks and `mixed` harmless documents, both of role `tool`.

    Payloads are the project's own actions and the short requests among the
    harmless `user` rows: what is normal for a user is an attack in a document.
    Deterministic by `seed`. No carriers among the examples, no documents.
    """
    rng = random.Random(seed)  # noqa: S311  not for secrets
    carriers = [e for e in examples if e.role == "tool" and e.label == "benign" and e.text]
    if not carriers:
        return []
    phrases = _phrases()
    tasks = [e.text for e in examples if _is_task(e)] or phrases["actions"]
    documents = [
        _poisoned(rng, rng.choice(carriers), rng.choice(phrases["wrappers"]), payload)
        for payload in _payloads(rng, phrases["actions"], tasks, poisoned)
    ]
    return documents + [_mixed(rng, carriers) for _ in range(mixed)]


def _phrases() -> dict[str, list[str]]:
    return tomllib.loads(resources.files(__package__).joinpath("phrases.toml").read_text("utf-8"))


def _is_task(example: Example) -> bool:
    return (
        example.role == "user"
        and example.kind == "benign_instruction"
        and 15 <= len(example.text) <= _LONGEST_TASK
    )


def _payloads(
    rng: random.Random, actions: Sequence[str], tasks: Sequence[str], count: int
) -> list[str]:
    return [rng.choice(actions if rng.random() < 0.6 else tasks) for _ in range(count)]


def _poisoned(rng: random.Random, carrier: Example, wrapper: str, payload: str) -> Example:
    injection = wrapper.replace("{payload}", payload)
    if rng.random() < 0.1:
        injection = injection.upper()
    return Example(
        text=_insert(rng, carrier.text, injection),
        label="attack",
        kind="indirect_injection",
        role="tool",
        source=carrier.source,
        injection=injection,
        composed=True,
    )


def _mixed(rng: random.Random, carriers: Sequence[Example]) -> Example:
    other = rng.choice(carriers).text[:_LONGEST_CARRIER]
    sentences = [sentence for sentence in _BREAK.split(other) if sentence.strip()]
    carrier = rng.choice(carriers)
    text = _insert(rng, carrier.text, rng.choice(sentences or [""]))
    return Example(text, "benign", "benign_document", "tool", carrier.source, composed=True)


def _insert(rng: random.Random, carrier: str, foreign: str) -> str:
    """The carrier, or a part of it, with `foreign` at a break between sentences."""
    start = rng.randrange(max(1, len(carrier) - _LONGEST_CARRIER + 1))
    carrier = carrier[start : start + _LONGEST_CARRIER]
    places = [0, len(carrier), *(match.end() for match in _BREAK.finditer(carrier))]
    place = rng.choice(places)
    gap = rng.choice([" ", "\n", "\n\n", ". "])
    return f"{carrier[:place]}{gap if place else ''}{foreign}{gap}{carrier[place:]}"

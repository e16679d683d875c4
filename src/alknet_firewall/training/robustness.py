"""What a detector loses to each evasion, and what it then takes for an attack.

Measured on attacks that the detector catches as they are, so that every loss is
the evasion's; and on harmless texts, because undoing a disguise must not raise
alarms on those who disguise nothing bad.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, get_args

from tqdm import tqdm

from ..alarm import AlarmLevel, Role
from ..firewall import Firewall
from . import evasions
from .data_loader import Example

__all__ = ["measure"]

_BATCH = 32
_LONGEST = 2_000  # characters of an attack; longer ones would take most of the time
_LONGEST_HARMLESS = 1_000  # of a harmless text, of which longer ones are cut
_PASSAGE = 400  # characters of a long harmless text that are disguised, as an injection would be

_Evade = Callable[[Example, random.Random], str]


def measure(
    firewall: Firewall,
    attacks: Sequence[Example],
    benign: Sequence[Example],
    *,
    seed: int,
    limit: int,
) -> list[dict[str, Any]]:
    """A row for each evasion and role, ready for JSON.

    `attacks` in a row counts texts, up to `limit`, that are caught as they are
    (at SUSPICIOUS or above), so `recall_before` is 1; `recall_after` is the
    share still caught. `benign` counts harmless texts, up to `limit`, with the
    share flagged before and after. Sources take turns until the limit is
    reached. A share of nothing is None.
    """
    firewall.preload()
    return [
        row
        for role in get_args(Role)
        for row in _role(
            firewall,
            [e for e in attacks if e.role == role and len(e.text) <= _LONGEST],
            [_shortened(e) for e in benign if e.role == role],
            random.Random(f"{seed}:{role}"),  # noqa: S311  not for secrets
            limit,
        )
    ]


def _role(
    firewall: Firewall,
    attacks: Sequence[Example],
    benign: Sequence[Example],
    rng: random.Random,
    limit: int,
) -> Iterator[dict[str, Any]]:
    role = (attacks or benign)[0].role if attacks or benign else None
    if role is None:
        return
    caught = _caught(firewall, _by_turns(attacks, rng), limit)
    harmless = _by_turns(benign, rng)[:limit]
    flagged = _flags(firewall, [e.text for e in harmless], role)
    clear = [e.text for e, flag in zip(harmless, flagged, strict=True) if not flag]
    before = {
        "role": role,
        "attacks": len(caught),
        "recall_before": 1.0 if caught else None,
        "benign": len(harmless),
        "false_positives_before": _share(flagged),
    }
    for name, evade in tqdm(_evasions(clear).items(), desc=f"evasions, {role}"):
        yield {
            "evasion": name,
            **before,
            "recall_after": _share(_after(firewall, caught, evade, name)),
            "false_positives_after": _share(_after(firewall, harmless, evade, name)),
        }
    yield from _translations(firewall, role)


def _evasions(harmless: Sequence[str]) -> dict[str, _Evade]:
    """Every evasion by its name; dilution only where there is something to dilute with.

    `harmless` texts are such that raise no alarm themselves, or an attack would
    count as caught by the text around it.
    """
    found: dict[str, _Evade] = {
        name: partial(_in_place, evasion)
        for name, evasion in {**evasions.DISGUISES, **evasions.WRAPPINGS}.items()
    }
    if harmless:
        found |= {
            name: partial(_diluted, dilution, harmless)
            for name, dilution in evasions.DILUTIONS.items()
        }
    return found


def _in_place(
    evasion: Callable[[str, random.Random], str], example: Example, rng: random.Random
) -> str:
    """The text with its injection evading; without a known one, all of a short text."""
    start, end = _passage(example, rng)
    text = example.text
    return text[:start] + evasion(text[start:end], rng) + text[end:]


def _diluted(
    dilution: Callable[[str, Sequence[str], random.Random], str],
    harmless: Sequence[str],
    example: Example,
    rng: random.Random,
) -> str:
    return dilution(example.text, harmless, rng)


def _passage(example: Example, rng: random.Random) -> tuple[int, int]:
    text, injection = example.text, example.injection
    if injection and injection in text:
        start = text.index(injection)
        return start, start + len(injection)
    if example.label == "attack" or len(text) <= _PASSAGE:
        return 0, len(text)
    spaces = [index for index, letter in enumerate(text[:-_PASSAGE]) if letter.isspace()]
    start = rng.choice(spaces) + 1 if spaces else 0
    return start, max(text.rfind(" ", start, start + _PASSAGE), start + _PASSAGE // 2)


def _translations(firewall: Firewall, role: Role) -> Iterator[dict[str, Any]]:
    """Attacks written in six languages, of those whose English is caught."""
    phrases = evasions.phrases()
    english = _flags(firewall, [phrase["en"] for phrase in phrases], role)
    caught = [phrase for phrase, flag in zip(phrases, english, strict=True) if flag]
    after = {
        language: _flags(firewall, [phrase[language] for phrase in caught], role)
        for language in evasions.LANGUAGES
        if language != "en"
    }
    every = [flag for flags in after.values() for flag in flags]
    for name, flags in {
        "translation": every,
        **{f"translation: {language}": after[language] for language in after},
    }.items():
        yield {
            "evasion": name,
            "role": role,
            "attacks": len(flags),
            "recall_before": 1.0 if flags else None,
            "recall_after": _share(flags),
            "benign": 0,
            "false_positives_before": None,
            "false_positives_after": None,
        }


def _caught(firewall: Firewall, attacks: Sequence[Example], limit: int) -> list[Example]:
    """The first `limit` attacks that raise an alarm as they are."""
    found: list[Example] = []
    for first in range(0, len(attacks), _BATCH):
        if len(found) >= limit:
            break
        batch = attacks[first : first + _BATCH]
        flags = _flags(firewall, [e.text for e in batch], batch[0].role)
        found += [e for e, flag in zip(batch, flags, strict=True) if flag]
    return found[:limit]


def _after(firewall: Firewall, examples: Sequence[Example], evade: _Evade, name: str) -> list[bool]:
    if not examples:
        return []
    texts = [
        evade(example, random.Random(f"{name}:{index}"))  # noqa: S311  not for secrets
        for index, example in enumerate(examples)
    ]
    return _flags(firewall, texts, examples[0].role)


def _flags(firewall: Firewall, texts: Sequence[str], role: Role) -> list[bool]:
    alarms = firewall.screen_many((text, role) for text in texts)
    return [alarm.level >= AlarmLevel.SUSPICIOUS for alarm in alarms]


def _by_turns(examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """All examples in random order, so that each source has one in every turn."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in rng.sample(examples, len(examples)):
        groups[example.source].append(example)
    turns = zip_longest(*(groups[source] for source in sorted(groups)))
    return [example for turn in turns for example in turn if example is not None]


def _shortened(example: Example) -> Example:
    return replace(example, text=example.text[:_LONGEST_HARMLESS])


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None

"""Training texts made from harmless ones and the project's own phrases.

Public data holds few documents with an injection in them, and those few share
carriers and phrases. Here a harmless document gets a wrapper and a payload at
some place; the injected string is recorded, so that each place can be labelled
by what it holds. As many documents get a harmless foreign sentence instead: a
foreign body is not yet an attack. The same is done for what users write.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from .data_loader import Example
from .phrases import load
from .records import dress

__all__ = ["WRAPPER_FOLDS", "ComposeOptions", "compose"]

WRAPPER_FOLDS = 10
"""Wrappers are dealt into folds that are held out like sources."""

_LONGEST_CARRIER = 1800  # characters; more adds time and no variety
_LONGEST_TASK = 300
_BREAK = re.compile(r"(?<=[.!?;,>}\]])\s+|\n+")
_WORD = re.compile(r"\w+|[^\w\s]+")

Phrases = Sequence[str]


@dataclass(frozen=True, slots=True)
class ComposeOptions:
    """How many texts of each kind are made."""

    poisoned: int = 10_000
    """Documents with an injection."""
    mixed: int = 5_000
    """Documents with a harmless foreign sentence."""
    hidden: int = 2_000
    """User texts with an attack somewhere in them."""
    suffixed: int = 600
    """User requests followed by machine-made noise."""
    joined: int = 2_000
    """User texts made of two harmless ones."""
    requests: int = 2_500
    """Ordinary requests that stand alone where a tool's answer should."""
    pieces: int = 5_000
    """A few sentences of a document: a short text is not yet an instruction."""
    framed: int = 3_000
    """Ordinary requests in the set-ups that people use for jailbreaks."""
    written: bool = True
    """Take the written attacks and hard negatives as they are, too."""

    @classmethod
    def none(cls) -> ComposeOptions:
        """Nothing at all: a start for a few."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0, written=False)


def compose(examples: Sequence[Example], options: ComposeOptions, seed: int) -> list[Example]:
    """Made texts of both roles and labels, and the written phrases themselves.

    Deterministic by `seed`. Documents come from the harmless `tool` rows among
    the examples, ordinary requests from the harmless `user` rows; where there
    are none, what needs them is left out.
    """
    rng = random.Random(seed)  # noqa: S311  not for secrets
    stock = _Stock.of(examples)
    kinds: list[tuple[int, bool, Callable[[random.Random, _Stock], Example]]] = [
        (options.poisoned, bool(stock.documents), _poisoned),
        (options.mixed, bool(stock.documents), _mixed),
        (options.hidden, bool(stock.prompts), _hidden),
        (options.suffixed, bool(stock.documents), _suffixed),
        (options.joined, bool(stock.prompts), _joined),
        (options.requests, bool(stock.requests), _request_alone),
        (options.pieces, bool(stock.documents), _piece),
        (options.framed, bool(stock.requests), _framed),
    ]
    made = [make(rng, stock) for count, possible, make in kinds if possible for _ in range(count)]
    return [*made, *_written_attacks(rng), *_hard_negatives()] if options.written else made


@dataclass(frozen=True, slots=True)
class _Stock:
    """What texts are made from."""

    documents: list[Example]
    prompts: list[Example]
    requests: list[Example]
    attacks: list[Example]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> _Stock:
        benign = [e for e in examples if e.label == "benign" and e.text.strip()]
        user = [e for e in benign if e.role == "user"]
        attacks = [e for e in examples if e.kind == "direct_injection" and _short(e)]
        return cls(
            documents=[e for e in benign if e.role == "tool"],
            prompts=user,
            requests=[e for e in user if e.kind == "benign_instruction" and _short(e)],
            attacks=[*(e for e in attacks if e.role == "user"), *_written_attacks(None)],
        )


def _short(example: Example) -> bool:
    return 15 <= len(example.text) <= _LONGEST_TASK


def _made(text: str, family: str, origins: Iterable[Example | str], **changes: object) -> Example:
    names = [o if isinstance(o, str) else o.source for o in origins]
    example = Example(
        text,
        "benign",
        "benign_document",
        "tool",
        f"({family})",
        origins=tuple(names),
        composed=True,
    )
    return replace(example, **changes)  # type: ignore[arg-type]


def _poisoned(rng: random.Random, stock: _Stock) -> Example:
    injection, origins = _injection(rng, stock)
    carrier = rng.choice(stock.documents)
    text, injection = _in_document(rng, carrier.text, injection)
    return _made(
        text,
        "poisoned",
        [carrier, *origins],
        label="attack",
        kind="indirect_injection",
        injection=injection,
    )


def _injection(rng: random.Random, stock: _Stock) -> tuple[str, list[Example | str]]:
    """An injected string and what it was made from."""
    if rng.random() < 0.12:  # what users try on a model directly
        attack = rng.choice(stock.attacks)
        return attack.text, [attack]
    payload, origins = _payload(rng, stock)
    if rng.random() < 0.15:  # nothing but the request itself
        return payload, origins
    style = rng.choice(list(load("wrappers").values()))
    number = rng.randrange(len(style))
    text = style[number].replace("{payload}", payload)
    if rng.random() < 0.05:
        text = text.upper()
    return text, [*origins, f"wrappers {number % WRAPPER_FOLDS}"]


def _payload(rng: random.Random, stock: _Stock) -> tuple[str, list[Example | str]]:
    if stock.requests and rng.random() < 0.25:
        request = rng.choice(stock.requests)
        return request.text, [request]
    return rng.choice(rng.choice(list(load("payloads").values()))), []


def _mixed(rng: random.Random, stock: _Stock) -> Example:
    carrier = rng.choice(stock.documents)
    if rng.random() < 0.4:
        other, origins = rng.choice(rng.choice(list(load("hard_negatives")["tool"].values()))), []
    else:
        source = rng.choice(stock.documents)
        other, origins = rng.choice(_sentences(source.text) or [""]), [source]
    text, _ = _in_document(rng, carrier.text, other)
    return _made(text, "mixed", [carrier, *origins])


def _piece(rng: random.Random, stock: _Stock) -> Example:
    carrier = rng.choice(stock.documents)
    sentences = _sentences(_part(rng, carrier.text, _LONGEST_CARRIER)) or [carrier.text]
    first = rng.randrange(len(sentences))
    text = rng.choice([" ", "\n"]).join(sentences[first : first + rng.choice([1, 1, 2, 3])])
    if rng.random() < 0.25:
        text, _ = dress(rng, text, None)
    return _made(text, "pieces", [carrier])


def _framed(rng: random.Random, stock: _Stock) -> Example:
    request = rng.choice(stock.requests)
    text = rng.choice(load("frames")["frames"]).replace("{request}", request.text)
    return _made(text, "framed", [request], kind="benign_hard_negative", role="user")


def _in_document(rng: random.Random, carrier: str, foreign: str) -> tuple[str, str]:
    """A document that holds `foreign`, and `foreign` as it stands there."""
    carrier = _part(rng, carrier)
    if rng.random() < 0.3:  # tools answer in records more often than in prose
        few = _part(rng, carrier, rng.choice([0, 80, 200, 500]))
        text, kept = dress(rng, _insert(rng, few, foreign), foreign)
        return text, kept or foreign
    return _insert(rng, carrier, foreign), foreign


def _part(rng: random.Random, text: str, longest: int | None = None) -> str:
    """A run of the text; lengths differ, since injections hide in short answers too."""
    if longest is None:
        longest = rng.choice([150, 400, 900, _LONGEST_CARRIER])
    start = rng.randrange(max(1, len(text) - longest + 1))
    return text[start : start + longest]


def _insert(rng: random.Random, carrier: str, foreign: str) -> str:
    """The carrier with `foreign` at its end or at a break between sentences."""
    if not carrier.strip():
        return foreign
    places = [0, *(match.end() for match in _BREAK.finditer(carrier))]
    place = len(carrier) if rng.random() < 0.3 else rng.choice(places)
    gap = rng.choice([" ", " ", "\n", "\n\n"])
    return f"{carrier[:place]}{gap if place else ''}{foreign}{gap}{carrier[place:]}"


def _sentences(text: str) -> list[str]:
    return [part for part in _BREAK.split(text[:_LONGEST_CARRIER]) if part.strip()]


def _hidden(rng: random.Random, stock: _Stock) -> Example:
    attack, prompt = rng.choice(stock.attacks), rng.choice(stock.prompts)
    text = _insert(rng, _part(rng, prompt.text), attack.text)
    return _made(
        text,
        "hidden",
        [attack, prompt],
        label="attack",
        kind="direct_injection",
        role="user",
        injection=attack.text,
    )


def _joined(rng: random.Random, stock: _Stock) -> Example:
    first, second = rng.choice(stock.prompts), rng.choice(stock.prompts)
    text = _insert(rng, _part(rng, first.text), _part(rng, second.text, 400))
    return _made(text, "joined", [first, second], kind="benign_chat", role="user")


def _suffixed(rng: random.Random, stock: _Stock) -> Example:
    """A request with a suffix like those that gradient search finds (arXiv:2307.15043)."""
    request = rng.choice(load("user_attacks")["requests"])
    pieces = [
        rng.choice(_WORD.findall(rng.choice(stock.documents).text[:2000]) or ["."])
        for _ in range(rng.randint(10, 28))
    ]
    suffix = "".join(
        piece + rng.choice([" ", " ", "", "\n"]) for piece in map(_mangled(rng), pieces)
    )
    text = f"{request} {suffix.strip()}"
    return _made(text, "suffixed", [], label="attack", kind="jailbreak", role="user")


def _mangled(rng: random.Random) -> Callable[[str], str]:
    changes: list[Callable[[str], str]] = [
        str.capitalize,
        str.upper,
        lambda word: word + rng.choice("}{](:;/\\"),
    ]
    return lambda word: rng.choice(changes)(word) if rng.random() < 0.3 else word


def _request_alone(rng: random.Random, stock: _Stock) -> Example:
    payload, origins = _payload(rng, stock)
    return _made(
        payload, "requests", origins, label="attack", kind="indirect_injection", injection=payload
    )


def _written_attacks(rng: random.Random | None) -> list[Example]:
    """The written user attacks, their placeholders filled (without `rng`, by turns)."""
    written = load("user_attacks")
    texts = [text for family, texts in written.items() if family not in _FILLERS for text in texts]
    return [
        _made(
            _filled(text, number, rng),
            "written attacks",
            [],
            label="attack",
            kind="direct_injection",
            role="user",
        )
        for number, text in enumerate(texts)
    ]


_FILLERS = {"requests": "{request}", "secrets": "{secret}"}


def _filled(text: str, number: int, rng: random.Random | None) -> str:
    for family, placeholder in _FILLERS.items():
        choices: Phrases = load("user_attacks")[family]
        choice = rng.choice(choices) if rng else choices[number % len(choices)]
        text = text.replace(placeholder, choice)
    return text


def _hard_negatives() -> list[Example]:
    kinds = {"user": "benign_hard_negative", "tool": "benign_document"}
    written = [
        (role, text)
        for role, families in load("hard_negatives").items()
        for texts in families.values()
        for text in texts
    ]
    written += [("user", text) for text in load("frames")["prompts"]]
    return [
        _made(text, "hard negatives", [], kind=kinds[role], role=role) for role, text in written
    ]

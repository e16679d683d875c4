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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from string import punctuation
from typing import Any

from .data_loader import Example
from .evasions import DISGUISES, WRAPPINGS
from .phrases import load
from .records import dress

__all__ = ["PHRASE_FOLDS", "ComposeOptions", "compose"]

PHRASE_FOLDS = 10
"""Wrappers and set-ups are dealt into folds that are held out like sources."""

_LONGEST_CARRIER = 1200  # characters; more adds time and no variety
_LONGEST_TASK = 300
_LONGEST_ATTACK = 1500
_PASSAGE = 400
# Disguises that leave something to see; what the others hide, canonicalisation finds.
_LEGIBLE = ("homoglyphs", "spaced letters", "hyphenated letters", "leetspeak", "case mixing")
_BREAK = re.compile(r"(?<=[.!?;,>}\]])\s+|\n+")
_WORD = re.compile(r"\w+|[^\w\s]+")
_GAPS = (" ", " ", "\n", "\n\n")
_LONGEST_WORD = 14  # a line of a language without gaps is more than one
_KNOWN = 3  # texts that hold a word, for it to be one that a tokenizer knows

Phrases = Sequence[str]
_Origins = Sequence[Example | str]


@dataclass(frozen=True, slots=True)
class ComposeOptions:
    """How many texts of each kind are made."""

    poisoned: int = 8_000
    """Documents with an injection."""
    mixed: int = 4_000
    """Documents with a harmless foreign sentence."""
    hidden: int = 7_500
    """User texts with an attack somewhere in them."""
    overriding: int = 2_500
    """User texts that take over a conversation by one of the phrases for documents."""
    joined: int = 3_000
    """User texts made of two harmless ones."""
    requests: int = 3_500
    """Ordinary requests that stand alone where a tool's answer should."""
    pieces: int = 3_500
    """A few sentences of a document: a short text is not yet an instruction."""
    framed: int = 1_200
    """Ordinary requests in the set-ups that people use for jailbreaks."""
    tactical: int = 1_200
    """Requests for something harmful in the same set-ups."""
    disguised: int = 1_000
    """Harmless texts in disguise or in markup: a disguise is not yet an attack."""
    evading: int = 1_500
    """Attacks in a disguise that leaves something to see, or in markup."""
    noisy: int = 4_000
    """User requests beside words, fragments of words and signs, as gradient search finds
    them (arXiv:2307.15043)."""
    listed: int = 600
    """Requests about a list of words: many words with no sense are not yet an attack."""
    written: bool = True
    """Take the written attacks and hard negatives as they are, too."""

    @classmethod
    def none(cls) -> ComposeOptions:
        """Nothing at all: a start for a few."""
        counts: dict[str, Any] = {field.name: 0 for field in fields(cls)}
        return cls(**{**counts, "written": False})


def compose(examples: Sequence[Example], options: ComposeOptions, seed: int) -> list[Example]:
    """Made texts of both roles and labels, and the written phrases themselves.

    Deterministic by `seed`. Documents come from the harmless `tool` rows among
    the examples, ordinary requests from the harmless `user` rows; where there
    are none, what needs them is left out.
    """
    stock = _Stock.of(examples)
    kinds: list[tuple[int, bool, Callable[[random.Random, _Stock], Example]]] = [
        (options.poisoned, bool(stock.documents), _poisoned),
        (options.mixed, bool(stock.documents), _mixed),
        (options.hidden, bool(stock.prompts), _hidden),
        (options.overriding, bool(stock.prompts), _overriding),
        (options.joined, bool(stock.prompts), _joined),
        (options.requests, bool(stock.requests), _request_alone),
        (options.pieces, bool(stock.documents), _piece),
        (options.framed, bool(stock.requests), _framed),
        (options.tactical, True, _tactical),
        (options.disguised, bool(stock.documents and stock.prompts), _disguised),
        (options.evading, bool(stock.documents and stock.prompts), _evading),
        (options.noisy, bool(stock.documents and stock.prompts), _noisy),
        (options.listed, bool(stock.prompts), _listed),
    ]
    made = [
        make(rng, stock)
        for count, possible, make in kinds
        if possible
        for rng in [_generator(seed, make.__name__)]
        for _ in range(count)
    ]
    if options.written:
        made += [*_written_attacks(_generator(seed, "written")), *_hard_negatives()]
        made += _standalone(_generator(seed, "standalone"))
    return made


def _generator(seed: int, kind: str) -> random.Random:
    """One for each kind, so that a change to one leaves the texts of the others alone."""
    return random.Random(f"{seed} {kind}")  # noqa: S311  not for secrets


@dataclass(frozen=True, slots=True)
class _Stock:
    """What texts are made from."""

    documents: list[Example]
    prompts: list[Example]
    requests: list[Example]
    attacks: list[Example]
    long_attacks: list[Example]
    vocabulary: list[str]
    """Every word that several texts hold, once."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> _Stock:
        benign = [e for e in examples if e.label == "benign" and e.text.strip()]
        user = [e for e in benign if e.role == "user"]
        attacks = [e for e in examples if e.label == "attack" and e.role == "user"]
        attacks += [e for e in _written_attacks(None) if e.source not in _WHOLE]
        return cls(
            documents=[e for e in benign if e.role == "tool"],
            prompts=user,
            requests=[e for e in user if e.kind == "benign_instruction" and _short(e)],
            attacks=[e for e in attacks if e.kind == "direct_injection" and _short(e)],
            long_attacks=[e for e in attacks if len(e.text) <= _LONGEST_ATTACK],
            vocabulary=_vocabulary(examples),
        )


def _vocabulary(examples: Sequence[Example]) -> list[str]:
    texts = Counter(
        word for e in examples for word in set(_words(e.text)) if len(word) <= _LONGEST_WORD
    )
    return sorted(word for word, count in texts.items() if count >= _KNOWN)


def _short(example: Example) -> bool:
    return 15 <= len(example.text) <= _LONGEST_TASK


def _made(text: str, family: str, origins: _Origins, **changes: object) -> Example:
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


def _injection(rng: random.Random, stock: _Stock) -> tuple[str, _Origins]:
    """An injected string and what it was made from."""
    if rng.random() < 0.12:  # what users try on a model directly
        attack = rng.choice(stock.attacks)
        return attack.text, [attack]
    if rng.random() < 0.4:
        return _phrase(rng, _injections())
    if rng.random() < 0.15:  # nothing but the request itself
        return _payload(rng, stock)
    text, origins = _wrapped(rng, stock, list(load("wrappers")))
    if rng.random() < 0.05:
        text = text.upper()
    if rng.random() < 0.1:
        text = rng.choice(list(WRAPPINGS.values()))(text, rng)
    return text, origins


def _wrapped(rng: random.Random, stock: _Stock, families: Phrases) -> tuple[str, _Origins]:
    """A payload in a wrapper of one of the families."""
    payload, origins = _payload(rng, stock)
    wrapper, fold = _phrase(rng, load("wrappers")[rng.choice(families)])
    return wrapper.replace("{payload}", payload), [*origins, *fold]


@cache
def _injections() -> Phrases:
    """The complete injections of every language."""
    return [text for texts in load("injections").values() for text in texts]


def _phrase(rng: random.Random, phrases: Phrases) -> tuple[str, _Origins]:
    """One of the phrases, and the fold that it is held out with."""
    number = rng.randrange(len(phrases))
    return phrases[number], [f"phrases {number % PHRASE_FOLDS}"]


def _payload(rng: random.Random, stock: _Stock) -> tuple[str, _Origins]:
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
    if rng.random() < 0.15:
        other = rng.choice(list(WRAPPINGS.values()))(other, rng)
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
    frame, fold = _phrase(rng, load("frames")["frames"])
    text = frame.replace("{request}", request.text)
    return _made(text, "framed", [request, *fold], kind="benign_hard_negative", role="user")


def _tactical(rng: random.Random, stock: _Stock) -> Example:
    frame, fold = _phrase(rng, load("frames")["frames"])
    text = frame.replace("{request}", rng.choice(load("user_attacks")["harmful_requests"]))
    return _made(text, "tactical", fold, label="attack", kind="jailbreak", role="user")


def _disguised(rng: random.Random, stock: _Stock) -> Example:
    base = rng.choice(rng.choice([stock.documents, stock.prompts, _hard_negatives()]))
    passage = _part(rng, base.text, _PASSAGE)
    text = rng.choice([*DISGUISES.values(), *WRAPPINGS.values()])(passage, rng)
    if rng.random() < 0.5:
        text = _insert(rng, _part(rng, base.text), text)
    return _made(text, "disguised", [base], kind=base.kind, role=base.role)


def _evading(rng: random.Random, stock: _Stock) -> Example:
    ways = [*(DISGUISES[name] for name in _LEGIBLE), *WRAPPINGS.values()]
    if rng.random() < 0.5:
        attack = rng.choice(rng.choice([stock.attacks, stock.long_attacks]))
        carrier, plain, kind = rng.choice(stock.prompts), attack.text, attack.kind
        origins: _Origins = [attack]
    else:
        carrier = rng.choice(stock.documents)
        plain, origins = _injection(rng, stock)
        kind = "indirect_injection"
    injection = rng.choice(ways)(plain, rng)
    text = injection if rng.random() < 0.4 else _insert(rng, _part(rng, carrier.text), injection)
    return _made(
        text,
        "evading",
        [*origins, carrier],
        label="attack",
        kind=kind,
        role=carrier.role,
        injection=injection,
    )


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
    gap = rng.choice(_GAPS)
    return f"{carrier[:place]}{gap if place else ''}{foreign}{gap}{carrier[place:]}"


def _together(rng: random.Random, around: str, foreign: str) -> str:
    """One before, behind or, half of the time, among the other."""
    if rng.random() < 0.5:
        return _insert(rng, around, foreign)
    return rng.choice(_GAPS).join(rng.sample([around, foreign], 2))


def _sentences(text: str) -> list[str]:
    return [part for part in _BREAK.split(text[:_LONGEST_CARRIER]) if part.strip()]


def _hidden(rng: random.Random, stock: _Stock) -> Example:
    attack = rng.choice(rng.choice([stock.attacks, stock.attacks, stock.long_attacks]))
    return _beside(rng, stock, "hidden", attack.text, [attack])


# In a document they take over; a user may say to a model whatever else documents must not.
_OVERRIDES = (
    "override",
    "context_switch",
    "authority_admin",
    "authority_developer",
    "authority_vendor",
    "fake_completion",
    "fake_chat_markup",
    "fake_system_notice",
    "delimiters",
    "persona",
    "error_recovery",
)


def _overriding(rng: random.Random, stock: _Stock) -> Example:
    text, origins = _wrapped(rng, stock, _OVERRIDES)
    return _beside(rng, stock, "overriding", text, origins)


def _beside(
    rng: random.Random, stock: _Stock, family: str, attack: str, origins: _Origins
) -> Example:
    """The attack before, behind or among what users write or give a model to read."""
    kinds = [stock.prompts, stock.prompts, stock.documents or stock.prompts]
    carrier = rng.choice(rng.choice(kinds))
    return _made(
        _together(rng, _part(rng, carrier.text), attack),
        family,
        [*origins, carrier],
        label="attack",
        kind="direct_injection",
        role="user",
        injection=attack,
    )


def _joined(rng: random.Random, stock: _Stock) -> Example:
    first, second = rng.choice(stock.prompts), rng.choice(stock.prompts)
    if stock.documents and rng.random() < 0.4:  # a task and the text it is about
        first = rng.choice(stock.documents)
    text = _together(rng, _part(rng, first.text), _part(rng, second.text, _PASSAGE))
    return _made(text, "joined", [first, second], kind="benign_chat", role="user")


def _noisy(rng: random.Random, stock: _Stock) -> Example:
    family = rng.choice(["requests", "harmful_requests", "refused_requests"])
    request, noise = rng.choice(load("user_attacks")[family]), _noise(rng, stock)
    first, second = (noise, request) if rng.random() < 0.15 else (request, noise)
    text = f"{first}{rng.choice([' ', ' ', '. ', ''])}{second}"
    return _made(text, "noisy", [], label="attack", kind="jailbreak", role="user")


def _noise(rng: random.Random, stock: _Stock) -> str:
    """Scraps with more or fewer rare words, parts of words, signs, gaps and places where
    the search has left what it started from."""
    rare, cut = rng.choice([0.0, 0.5, 1.0, 1.0]), rng.choice([0.1, 0.5])
    signs, left = rng.choice([0.0, 0.1, 0.3, 0.5]), rng.choice([0.0, 0.0, 0.1, 0.3])
    gaps = rng.choice([("  ", "\n"), (" ", " ", " ", ""), (" ", ""), (" ",), (" ",)])
    start = rng.choice(["!", "x", "*", "?", "a"])
    scraps = (
        (start if rng.random() < left else _scrap(rng, stock, rare, cut, signs)) + rng.choice(gaps)
        for _ in range(rng.randint(8, 40))
    )
    return "".join(scraps).strip()


_SIGNS = (
    "\\",
    "!--",
    "](",
    "**",
    "{{",
    "}}",
    '="',
    "'';",
    "::",
    '("',
    ".\\",
    "\\+",
    "//",
    "->",
    "%%",
    "==",
)


def _scrap(rng: random.Random, stock: _Stock, rare: float, cut: float, signs: float) -> str:
    """A word or a part of one, as a tokenizer cuts it, and signs or none.

    The rare ones are drawn from the vocabulary, as gradient search draws: most words in it
    are rare. The others come from texts of all kinds, where few are.
    """
    word = rng.choice(stock.vocabulary or ["."]) if rng.random() < rare else _word(rng, stock)
    if len(word) > 4 and rng.random() < cut:
        at = rng.randrange(2, len(word) - 1)
        word = rng.choice([word[:at], word[at:], word[at:].capitalize()])
    elif rng.random() < 0.1:
        word = rng.choice([word.upper(), word.capitalize()])
    if rng.random() >= signs:
        return word
    return rng.choice(["{word}{signs}", "{signs}{word}", "{signs}"]).format(
        word=word, signs=_signs(rng)
    )


def _signs(rng: random.Random) -> str:
    """Signs that code is full of, or some that stand together nowhere."""
    if rng.random() < 0.5:
        return rng.choice(_SIGNS)
    return "".join(rng.choices(punctuation, k=rng.randint(1, 4)))


def _word(rng: random.Random, stock: _Stock) -> str:
    text = rng.choice(rng.choice([stock.documents, stock.prompts, stock.attacks])).text
    return rng.choice(_words(text[:1500]) or ["."])


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _listed(rng: random.Random, stock: _Stock) -> Example:
    origins = [rng.choice(stock.prompts) for _ in range(rng.randint(4, 30))]
    words = [rng.choice([w for w in _words(e.text) if w.isalpha()] or ["and"]) for e in origins]
    joined = rng.choice([", ", ", ", " ", "\n", "; ", " / "]).join(words)
    text = rng.choice(load("frames")["lists"]).replace("{words}", joined)
    return _made(text, "listed", origins, kind="benign_hard_negative", role="user")


def _request_alone(rng: random.Random, stock: _Stock) -> Example:
    if rng.random() < 0.4:
        text, origins = _phrase(rng, _injections())
    else:
        text, origins = _payload(rng, stock)
    return _made(
        text, "requests", origins, label="attack", kind="indirect_injection", injection=text
    )


def _written_attacks(rng: random.Random | None) -> list[Example]:
    """The written user attacks, their placeholders filled (without `rng`, by turns)."""
    return [
        _written(_filled(text, number, rng), family, "user", "attack")
        for family, texts in load("user_attacks").items()
        if family not in _FILLERS
        for number, text in enumerate(texts)
    ]


_FILLERS = {
    "requests": "{request}",
    "harmful_requests": "{request}",
    "refused_requests": "{request}",
    "secrets": "{secret}",
}
# A harmless beginning is a part of them.
_WHOLE = tuple(
    f"(written: {family})"
    for family in (
        "hijacked_questions",
        "turned_tasks",
        "smuggled",
        "casual_overrides",
        "casual_overrides_german",
        "casual_overrides_other",
        "diverted_tasks",
        "planted_in_data",
        "plain_mixed",
        "turns_english",
        "turns_german",
        "turns_languages",
        "data_with_orders",
    )
)


def _filled(text: str, number: int, rng: random.Random | None) -> str:
    for family, placeholder in _FILLERS.items():
        choices: Phrases = load("user_attacks")[family]
        choice = rng.choice(choices) if rng else choices[number % len(choices)]
        text = text.replace(placeholder, choice)
    return text


@cache
def _hard_negatives() -> list[Example]:
    families = [
        (role, family, texts)
        for role, families in load("hard_negatives").items()
        for family, texts in families.items()
    ]
    families.append(("user", "styled", load("frames")["prompts"]))
    return [
        _written(text, family, role, "benign") for role, family, texts in families for text in texts
    ]


def _standalone(rng: random.Random) -> list[Example]:
    """The phrases from which nothing is made, so that more of them leave all other texts,
    and what is kept of those in an activation cache, as they are."""
    return [
        _written(_filled(text, number, rng), family, role, label, standalone=True)
        for role, labels in load("standalone").items()
        for label, families in labels.items()
        for family, texts in families.items()
        for number, text in enumerate(texts)
    ]


_WRITTEN_KINDS = {
    ("user", "attack"): "direct_injection",
    ("user", "benign"): "benign_hard_negative",
    ("tool", "benign"): "benign_document",
}


def _written(text: str, family: str, role: str, label: str, *, standalone: bool = False) -> Example:
    """A phrase that is a text of its own: one of a source like any other."""
    kind = _WRITTEN_KINDS[role, label]
    example = _made(text, f"written: {family}", [], kind=kind, role=role, label=label)
    return replace(example, composed=False, standalone=standalone)

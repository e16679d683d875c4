"""The chat completions that proxy_overhead.py sends: harmless, and fresh each time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

__all__ = ["TURNS", "body", "chat", "message"]

TURNS = 20
ANSWER = "Gladly."

_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_THINGS = "kettle bicycle garden ladder window carpet lantern kitchen basket mirror pillow"
_PLACES = "harbour village station library museum bakery school office theatre hospital castle"


def message(chance: random.Random) -> str:
    """A text of 64 tokens that has hardly been sent before."""
    days, things, places = (
        [chance.choice(words.split()) for _ in range(4)] for words in (_DAYS, _THINGS, _PLACES)
    )
    return (
        f"On {days[0]} we bought a {things[0]} near the {places[0]}, and by {days[1]} it was in "
        f"the {places[1]} beside a {things[1]} and an old {things[2]}. Could you write a short "
        f"note that thanks the owner of the {places[2]}, mentions the {things[3]}, and asks "
        f"whether the {places[3]} is open on {days[2]}? Please keep it friendly and under a "
        "hundred words."
    )


def body(*texts: str) -> bytes:
    """A request in which user and assistant have taken turns to say `texts`."""
    said = [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(texts)
    ]
    return json.dumps({"model": "echo", "messages": said}).encode()


def chat(chance: random.Random, long_answers: bool) -> Iterator[bytes]:
    """The requests of one conversation, a turn more with each."""
    texts: list[str] = []
    for _ in range(TURNS):
        texts.append(message(chance))
        yield body(*texts)
        texts.append(message(chance) if long_answers else ANSWER)

"""Documents in the shapes that tools return, around a given text.

The values around the text come from `phrases/records.toml`. A text that holds
an injection holds it still: what a format escapes is escaped in both alike.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from html import escape as html_escape

from .phrases import load

__all__ = ["dress"]

Fields = list[tuple[str, str]]
Render = Callable[[Fields], str]
Escape = Callable[[str], str]


def dress(rng: random.Random, text: str, injection: str | None) -> tuple[str, str | None]:
    """The text as one field of a tool's answer, and the injection as it stands there."""
    render, escape = rng.choice(_FORMATS)
    fields = _fields(rng)
    marked = [(name, text if value is None else value) for name, value in fields]
    document = render(marked)
    if rng.random() < 0.25:  # one record of several
        document = _among(rng, document, render)
    return document, escape(injection) if injection else None


def _fields(rng: random.Random) -> list[tuple[str, str | None]]:
    """A record's fields in order; the free text is None."""
    domain = rng.choice(list(load("records")["domains"].values()))
    names = list(domain)
    kept = [name for name in names if domain[name] == "text" or rng.random() < 0.8]
    return [(name, None if domain[name] == "text" else _value(rng, domain[name])) for name in kept]


def _among(rng: random.Random, document: str, render: Render) -> str:
    others = [
        render(
            [
                (name, value or rng.choice(["", "-", "n/a", "see above"]))
                for name, value in _fields(rng)
            ]
        )
        for _ in range(rng.randint(1, 2))
    ]
    records = [document, *others]
    rng.shuffle(records)
    return rng.choice(["\n", "\n\n", "\n---\n"]).join(records)


def _value(rng: random.Random, kind: str) -> str:
    values: dict[str, Sequence[str]] = load("records")["values"]
    if kind in values:
        return rng.choice(values[kind])
    return _NUMBERS[kind](rng)


_NUMBERS: dict[str, Callable[[random.Random], str]] = {
    "count": lambda rng: str(rng.randint(0, 2400)),
    "score": lambda rng: f"{rng.uniform(0, 10):.1f}",
    "price": lambda rng: f"{rng.uniform(1, 4000):.2f}",
    "flag": lambda rng: rng.choice(["true", "false"]),
    "id": lambda rng: f"{rng.choice(['', 'A', 'ORD-', 'evt_', 'msg-'])}{rng.randint(1000, 10**7)}",
    "hash": lambda rng: f"{rng.getrandbits(64):016x}",
    "date": lambda rng: f"20{rng.randint(18, 26)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    "time": lambda rng: (
        f"20{rng.randint(18, 26)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        f"T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}Z"
    ),
    "phone": lambda rng: f"+{rng.randint(1, 99)} 555 {rng.randint(1000, 9999)}",
    "iban": lambda rng: f"{rng.choice(['DE', 'GB', 'FR', 'NL'])}{rng.randint(10**15, 10**16)}",
}


def _json(fields: Fields) -> str:
    return json.dumps(dict(fields), ensure_ascii=False)


def _indented(fields: Fields) -> str:
    return json.dumps({"result": dict(fields)}, ensure_ascii=False, indent=2)


def _plain_dict(fields: Fields) -> str:
    return "{" + ", ".join(f"'{name}': '{value}'" for name, value in fields) + "}"


def _lines(fields: Fields) -> str:
    return "\n".join(f"{name.replace('_', ' ').capitalize()}: {value}" for name, value in fields)


def _yaml(fields: Fields) -> str:
    return "\n".join(f"{name}: {value}" for name, value in fields)


def _xml(fields: Fields) -> str:
    return "".join(["<item>", *(f"<{n}>{html_escape(v)}</{n}>" for n, v in fields), "</item>"])


def _html(fields: Fields) -> str:
    rows = "\n".join(f"  <tr><th>{n}</th><td>{html_escape(v)}</td></tr>" for n, v in fields)
    return f"<table>\n{rows}\n</table>"


def _csv(fields: Fields) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(zip(*fields, strict=True))
    return out.getvalue()


def _log(fields: Fields) -> str:
    return " ".join(f"{name}={value}" for name, value in fields)


def _markdown(fields: Fields) -> str:
    return "\n".join(f"- **{name}**: {value}" for name, value in fields)


def _as_is(text: str) -> str:
    return text


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _in_csv(text: str) -> str:
    return text.replace('"', '""')


_FORMATS: list[tuple[Render, Escape]] = [
    (_json, _in_json),
    (_indented, _in_json),
    (_plain_dict, _as_is),
    (_plain_dict, _as_is),
    (_lines, _as_is),
    (_yaml, _as_is),
    (_xml, html_escape),
    (_html, html_escape),
    (_csv, _in_csv),
    (_log, _as_is),
    (_markdown, _as_is),
]

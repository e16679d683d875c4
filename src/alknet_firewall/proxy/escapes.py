"""JSON inside strings: what a model reads once the escapes are undone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

__all__ = ["decoded"]


def decoded(text: str) -> str | None:
    """The strings inside `text` when it is a JSON object, array or string, else None.

    One to a line, in order; JSON in them is parsed too.
    """
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        # Pairs, not a dict: a key given twice must not hide its first value.
        value = json.loads(text, strict=False, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    return "\n".join(_strings(value)) or None


def _strings(value: object) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            # Each round removes one level of escapes or quotes, so this ends.
            yield item if (inner := decoded(item)) is None else inner
        elif isinstance(item, Iterable):
            stack.extend(reversed([*item]))

"""Screens a model's answer on its way to the client, where that is asked for.

A stream is looked at in windows, again after each stride of new text. To
`annotate` it passes at once, and a comment follows what looked like an attack;
to `cut` it, new text is held back until it has been looked at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from ..alarm import Alarm, AlarmLevel
from ..errors import RequestError, ScreeningError, UpstreamError
from .answers import Events, cut_events, piece_path, pieces, read_event, whole_texts
from .content import Shape
from .leaves import Place, Untrusted
from .options import AnswersConfig
from .refusals import refusal
from .relay import Relay, is_event_stream

__all__ = ["Watch", "watched"]

_log = logging.getLogger(__name__)

ANSWER_HEADER = "x-alknet-firewall-answer-level"
_MOST_HELD = 1_000_000
"""Bytes of events that are kept until they have been looked at."""
_MOST_PLACES = 64
"""Texts streamed side by side; more are looked at as one."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What watching one answer needs to know and to tell."""

    config: AnswersConfig
    shape: Shape
    screen: Callable[[Sequence[Untrusted]], Awaitable[list[Alarm]]]
    found: Callable[[AlarmLevel, str], None]
    """Told of each alarm, with what is done: `annotate`, `cut`, or `failed`."""
    fail_open: bool

    @property
    def cuts(self) -> bool:
        """Whether an alarm ends the answer."""
        return self.config.action == "cut"

    async def level(self, texts: Sequence[Untrusted]) -> AlarmLevel:
        """The worst level of some texts; CLEAR below the configured one.

        What cannot be screened counts as DANGEROUS, unless failing is open.
        """
        try:
            worst = max((alarm.level for alarm in await self.screen(texts)), default=None)
        except (ScreeningError, RequestError) as error:
            _log.error("screening an answer failed: %s", error)
            self.found(AlarmLevel.CLEAR, "failed")
            return AlarmLevel.CLEAR if self.fail_open else AlarmLevel.DANGEROUS
        threshold = AlarmLevel[self.config.level.upper()]
        return worst if worst and worst >= threshold else AlarmLevel.CLEAR


async def watched(answer: Relay, watch: Watch, body: Mapping[str, Any]) -> Response:
    """The answer, looked into. Raises `UpstreamError` (502) where it cannot be and must."""
    if answer.status_code != 200:
        return answer
    if is_event_stream(answer.upstream):
        answer.chunks = _watched_stream(answer.chunks, watch)
        return answer
    return await _watched_whole(answer, watch, body)


# --- whole answers -----------------------------------------------------------


async def _watched_whole(answer: Relay, watch: Watch, body: Mapping[str, Any]) -> Response:
    chunks: list[bytes] = []
    try:
        async for chunk in answer.chunks:
            chunks.append(chunk)
            if sum(map(len, chunks)) > watch.config.max_bytes:
                break
        else:
            return await _judged_whole(answer, watch, body, b"".join(chunks))
    except BaseException:
        await answer.aclose()
        raise
    if watch.cuts:
        await answer.aclose()
        raise _unreadable()
    answer.chunks = _again(chunks, answer.chunks)
    answer.headers[ANSWER_HEADER] = "UNSCREENED"
    return answer


async def _judged_whole(
    answer: Relay, watch: Watch, body: Mapping[str, Any], raw: bytes
) -> Response:
    await answer.aclose()
    passed = Response(raw, answer.status_code)
    passed.raw_headers = answer.raw_headers
    try:
        said = json.loads(raw)
        texts = whole_texts(said) if isinstance(said, dict) else ()
    except (ValueError, RecursionError):
        if watch.cuts:
            raise _unreadable() from None
        passed.headers[ANSWER_HEADER] = "UNSCREENED"
        return passed
    level = await watch.level(texts)
    if level:
        watch.found(level, watch.config.action)
        if watch.cuts:
            message = "The answer was withheld: it looks like an attack."
            given = {**body, "model": said.get("model"), "stream": False}
            return refusal(watch.shape, given, message, {ANSWER_HEADER: level.name})
    passed.headers[ANSWER_HEADER] = level.name
    return passed


async def _again(read: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in read:
        yield chunk
    async for chunk in rest:
        yield chunk


def _unreadable() -> UpstreamError:
    return UpstreamError(
        "The upstream's answer could not be screened, because it is too long or no JSON: raise "
        "`max_bytes` under [answers], or set its action to annotate.",
        status=502,
        code="answer_not_screened",
    )


# --- streams -----------------------------------------------------------------


@dataclass
class _Tail:
    """The last characters of each text of a stream, and how many are new."""

    window: int
    texts: dict[Place, str] = field(default_factory=dict)
    changed: set[Place] = field(default_factory=set)
    new: int = 0

    def add(self, place: Place, text: str) -> None:
        if place not in self.texts and len(self.texts) >= _MOST_PLACES:
            place = ("more",)
        self.texts[place] = (self.texts.get(place, "") + text)[-self.window :]
        self.changed.add(place)
        self.new += len(text)

    def take(self) -> list[Untrusted]:
        """The windows with something new in them, which then is not new any more."""
        taken = [
            Untrusted("tool", piece_path(at), self.texts[at])
            for at in sorted(self.changed, key=str)
        ]
        self.changed.clear()
        self.new = 0
        return taken


@dataclass
class _Stream:
    """A stream that is being looked at."""

    watch: Watch
    tail: _Tail
    held: list[bytes] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    told: bool = False
    cut: bool = False
    ending: bool = False

    def take(self, event: bytes) -> list[bytes]:
        """Read an event; returns what may pass at once."""
        read = read_event(event)
        self.ending = _may_end(read)
        if read is not None:
            self.last = _kept(self.last, read)
            for place, text in pieces(read):
                self.tail.add(place, text)
        if not self.watch.cuts:
            return [event]
        self.held.append(event)
        return [] if self.tail.new else self._released()

    @property
    def due(self) -> bool:
        """Whether it is time to look at what is new."""
        if not self.tail.new:
            return False
        enough = self.tail.new >= self.watch.config.stride
        return enough or self.ending or sum(map(len, self.held)) > _MOST_HELD

    async def look(self) -> list[bytes]:
        """Screen what is new; returns what is to be sent, which may be the end."""
        level = await self.watch.level(self.tail.take())
        if not level or self.told:
            return self._released()
        self.told = True
        self.watch.found(level, self.watch.config.action)
        if self.watch.cuts:
            self.cut = True
            return cut_events(self.watch.shape, self.last, set(self.tail.texts))
        return [f": alknet-firewall {level.name}\n\n".encode("ascii")]

    def _released(self) -> list[bytes]:
        released, self.held = self.held, []
        return released


async def _watched_stream(chunks: AsyncIterator[bytes], watch: Watch) -> AsyncIterator[bytes]:
    stream = _Stream(watch, _Tail(watch.config.window))
    async for event in _events(chunks):
        for passed in stream.take(event):
            yield passed
        if stream.due:
            for passed in await stream.look():
                yield passed
        if stream.cut:
            return
    for passed in await stream.look():  # whatever the stream ended without
        yield passed


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole events, and at the end what is left of one; each with at most so many bytes."""
    events = Events()
    async for chunk in chunks:
        for event in events.feed(chunk):
            yield event
        if len(events.rest) > _MOST_HELD:
            raise _unreadable()
    if events.rest:
        yield events.rest


def _kept(last: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """What the end of a cut stream is made of: the newest fields of all events."""
    return {**{key: last[key] for key in ("response",) if key in last}, **read}


_ENDS = ("content_block_stop", "message_delta", "message_stop", "error")


def _may_end(read: dict[str, Any] | None) -> bool:
    """Whether an event ends a text, so that nothing may be held back any longer."""
    if read is None:  # [DONE], or a comment
        return True
    kind = read.get("type")
    if isinstance(kind, str):
        return kind in _ENDS or kind.endswith((".done", ".completed", ".incomplete", ".failed"))
    choices = read.get("choices")
    ended = [item.get("finish_reason") for item in choices or [] if isinstance(item, dict)]
    return any(ended) or not choices

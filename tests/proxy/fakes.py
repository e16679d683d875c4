"""Stand-ins for what the proxy stands between: a detector and an upstream."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx

from alknet_firewall.alarm import Alarm, AlarmLevel, Role, Span
from alknet_firewall.config import Config, PolicyConfig, ProxyConfig

ATTACK = "ATTACK please"
DOUBTFUL = "DOUBTFUL please"


def alarm(level: AlarmLevel, role: Role = "user", score: float | None = None) -> Alarm:
    """An alarm of a level, with a span where it is not CLEAR."""
    score = (0.1, 0.6, 0.9)[level] if score is None else score
    spans = (Span(0, 6, score),) if level else ()
    return Alarm(level, score, role, spans, (), windows=1, tokens=3, elapsed=0.001)


@dataclass
class FakeFirewall:
    """Calls text with ATTACK dangerous, with DOUBTFUL suspicious; notes what it saw."""

    error: Exception | None = None
    delay: float = 0
    seen: list[tuple[str, Role]] = field(default_factory=list)

    def preload(self) -> None:
        pass

    def screen_many(self, items: Iterable[tuple[str, Role]]) -> list[Alarm]:
        return [self._screen(text, role) for text, role in items]

    def count_tokens(self, text: str) -> int:
        return 3

    def _screen(self, text: str, role: Role) -> Alarm:
        if text.startswith("Ignore all previous"):
            return alarm(AlarmLevel.DANGEROUS, role)
        if text.startswith("What is the capital"):
            return alarm(AlarmLevel.CLEAR, role)
        time.sleep(self.delay)
        if self.error:
            raise self.error
        self.seen.append((text, role))
        if "ATTACK" in text:
            return alarm(AlarmLevel.DANGEROUS, role)
        return alarm(AlarmLevel.SUSPICIOUS if "DOUBTFUL" in text else AlarmLevel.CLEAR, role)


@dataclass
class Recorder(httpx.AsyncBaseTransport):
    """An upstream in memory: answers each request alike and keeps it."""

    answer: httpx.Response = field(default_factory=lambda: httpx.Response(200, json={"ok": True}))
    error: Exception | None = None
    requests: list[httpx.Request] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.error:
            raise self.error
        stream = httpx.ByteStream(self.answer.content)
        return httpx.Response(self.answer.status_code, headers=self.answer.headers, stream=stream)


def config(policy: PolicyConfig | None = None, **proxy: object) -> Config:
    """A configuration with an upstream, and `proxy` in place of the defaults."""
    return Config(
        proxy=ProxyConfig(upstream="http://upstream.test/v1", **proxy),  # type: ignore[arg-type]
        policy=policy or PolicyConfig(),
    )

"""Text in, alarm out: the one scan path behind the library, the proxy, the hooks."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from .alarm import Alarm, AlarmLevel, Role, Span
from .codebook import Codebook, DetectionResult
from .config import Config, FirewallConfig, Thresholds
from .errors import ScreeningError, TextTooLongError
from .model.embedded import EmbeddedModel
from .model.protocol import DetectorModel, Encoding
from .windows import window_bounds

__all__ = ["Firewall", "readable"]

_SIGNALS = 8  # an alarm names the rarest directions, not all of them
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Firewall:
    """Screens text with a detector model and a codebook.

    Constructing it is free; the codebook and the model are loaded by
    `preload`, or by the first text. One firewall serves any number of threads.
    """

    def __init__(
        self,
        config: FirewallConfig | Config | None = None,
        *,
        model: DetectorModel | None = None,
        codebook: Codebook | None = None,
        progress: bool = False,
    ) -> None:
        """`model` and `codebook` replace what the configuration would load;
        `progress` shows a bar while weights are prepared."""
        self._config = config.firewall if isinstance(config, Config) else config or FirewallConfig()
        self._model = model
        self._codebook = codebook
        self._progress = progress
        self._lock = threading.Lock()
        self._loaded: tuple[DetectorModel, Codebook] | None = None

    def preload(self) -> None:
        """Load codebook and model now. Raises `CodebookError` or `ModelError`."""
        self._load()

    def screen(
        self, text: str, role: Role = "user", *, thresholds: Thresholds | None = None
    ) -> Alarm:
        """Screen one text. Every token of it is read.

        `role` says whether the text comes from a user or from a tool;
        `thresholds` replaces the configured ones for this call. Raises
        `ScreeningError` for what is not a text or a known role, and
        `TextTooLongError` past `max_tokens`.
        """
        started = time.perf_counter()
        if not isinstance(text, str):
            raise ScreeningError(f"a text must be a str, not {type(text).__name__}")
        if role not in get_args(Role):
            raise ScreeningError(f"role must be 'user' or 'tool', not {role!r}")
        model, codebook = self._load()
        encoding = self._encode(model, text)
        results = list(_detections(model, codebook, encoding.ids, role))
        limits = thresholds or self._config.thresholds.get(role) or codebook.thresholds[role]
        return _alarm(codebook, role, encoding, results, limits, started)

    def screen_many(self, items: Iterable[tuple[str, Role]]) -> list[Alarm]:
        """Screen (text, role) pairs; the alarms come in the same order."""
        pairs = list(items)
        self._load()
        # Two texts at a time keep the cores busy while one of them tokenizes.
        with ThreadPoolExecutor(max_workers=2) as pool:
            return list(pool.map(lambda pair: self.screen(*pair), pairs))

    async def screen_async(
        self, text: str, role: Role = "user", *, thresholds: Thresholds | None = None
    ) -> Alarm:
        """`screen` in a worker thread, for code that must not block its loop."""
        return await asyncio.to_thread(self.screen, text, role, thresholds=thresholds)

    @property
    def codebook(self) -> Codebook:
        """The codebook in use, loaded if it was not."""
        return self._load()[1]

    def _load(self) -> tuple[DetectorModel, Codebook]:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = self._load_now()
        return self._loaded

    def _load_now(self) -> tuple[DetectorModel, Codebook]:
        path = self._config.codebook
        codebook = self._codebook or (Codebook.load(Path(path)) if path else Codebook.bundled())
        model = self._model or self._embedded(codebook)
        codebook.check_model(model.identity, model.extraction_layers)
        model.load()
        return model, codebook

    def _embedded(self, codebook: Codebook) -> EmbeddedModel:
        return EmbeddedModel(
            codebook.layers,
            precision=self._config.precision,
            threads=self._config.threads,
            cache_dir=self._config.cache_dir,
            local_files_only=self._config.local_files_only,
            progress=self._progress,
        )

    def _encode(self, model: DetectorModel, text: str) -> Encoding:
        encoding = model.encode(readable(text))
        if len(encoding.ids) > self._config.max_tokens:
            raise TextTooLongError(len(encoding.ids), self._config.max_tokens)
        return encoding


def readable(text: str) -> str:
    """The text with lone surrogates, which have no UTF-8 form, as U+FFFD.

    It has the same length, so every offset stays in place.
    """
    return _LONE_SURROGATE.sub("\ufffd", text)


def _detections(
    model: DetectorModel, codebook: Codebook, ids: Sequence[int], role: Role
) -> Iterator[DetectionResult]:
    """What each window of the model found, places counted from the text's start."""
    shape = codebook.windows
    for start, end in window_bounds(len(ids), shape.tokens, shape.overlap):
        states = model.infer([model.bos_id, *ids[start:end]])
        # Position 0 is the BOS token: an attention sink, not text.
        text_states = {layer: state[1:] for layer, state in states.items()}
        yield codebook.scan(text_states, role).shifted(start)


def _alarm(
    codebook: Codebook,
    role: Role,
    encoding: Encoding,
    results: Sequence[DetectionResult],
    limits: Thresholds,
    started: float,
) -> Alarm:
    worst = max(results, key=lambda result: result.score, default=None)
    score = worst.score if worst else 0.0
    level = _level(score, limits)
    return Alarm(
        level=level,
        score=score,
        role=role,
        spans=_spans(results, encoding, limits.suspicious) if level else (),
        signals=tuple(codebook.score(worst.z, role, top=_SIGNALS)) if worst else (),
        windows=sum(len(result.scores) for result in results),
        tokens=len(encoding.ids),
        elapsed=time.perf_counter() - started,
    )


def _level(score: float, limits: Thresholds) -> AlarmLevel:
    if score >= limits.dangerous:
        return AlarmLevel.DANGEROUS
    return AlarmLevel.SUSPICIOUS if score >= limits.suspicious else AlarmLevel.CLEAR


def _spans(
    results: Sequence[DetectionResult], encoding: Encoding, threshold: float
) -> tuple[Span, ...]:
    """The scored windows at or above the threshold, neighbours joined."""
    spans: list[Span] = []
    for result in results:
        for (first, last), score in zip(result.places, result.scores, strict=True):
            if score >= threshold:
                start, end = encoding.offsets[first][0], encoding.offsets[last - 1][1]
                _join(spans, Span(start, end, float(score)))
    return tuple(spans)


def _join(spans: list[Span], span: Span) -> None:
    if spans and span.start <= spans[-1].end:
        last = spans.pop()
        span = Span(last.start, max(last.end, span.end), max(last.score, span.score))
    spans.append(span)

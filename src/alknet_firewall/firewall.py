"""Text in, alarm out: the one scan path behind the library, the proxy, the hooks."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from .alarm import Alarm, AlarmLevel, Role, Span
from .canonical import Reading, readings
from .canonical.reading import raw
from .codebook import Codebook, DetectionResult
from .codebook.detection import BY_PARAGRAPH
from .codebook.lexical import Passage
from .config import Config, FirewallConfig, Thresholds
from .errors import ScreeningError, TextTooLongError
from .model.embedded import EmbeddedModel
from .model.protocol import DetectorModel, Encoding, infer_by_layer
from .threads import thread_count
from .windows import paragraph_blocks, paragraph_starts, window_bounds

__all__ = ["Firewall", "readable"]

Mask = NDArray[np.bool_]

_SIGNALS = 8  # an alarm names the rarest directions, not all of them
# Lone surrogates have no UTF-8 form; the rest has no token in SmolLM2's vocabulary.
_UNREADABLE = re.compile("[\ud800-\udfff\x04\x06\x13\x14\x16\x1d\U00040000-\U000bffff]")


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
        """Screen one text. Every token of it is read, also of what it hides.

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
        encoding = self._encode(model, text)  # before anything else: it bounds the text
        limits = thresholds or self._config.thresholds.get(role) or codebook.thresholds[role]
        reader = self._reader(model, codebook, role, limits)
        others = readings(text)[1:] if self._config.canonical else []
        # A disguise is odd, and what it hides may be ordinary.
        disguised = _disguised(text, encoding, others)
        read = [_screened(reader, raw(text), _passage(text, encoding, disguised))]
        for reading in others:
            encoding = model.encode(readable(reading.text))
            read.append(_screened(reader, reading, _passage(reading.text, encoding)))
        anomalous = self._config.anomaly and all(screened.odd for screened in read)
        return _alarm(codebook, role, read, limits, anomalous, started)

    def screen_many(self, items: Iterable[tuple[str, Role]]) -> list[Alarm]:
        """Screen (text, role) pairs; the alarms come in the same order."""
        pairs = list(items)
        self._load()
        if len(pairs) < 2:
            return [self.screen(*pair) for pair in pairs]
        # Two texts at a time keep the cores busy while one of them tokenizes.
        with ThreadPoolExecutor(max_workers=2) as pool:
            return list(pool.map(lambda pair: self.screen(*pair), pairs))

    async def screen_async(
        self, text: str, role: Role = "user", *, thresholds: Thresholds | None = None
    ) -> Alarm:
        """`screen` in a worker thread, for code that must not block its loop."""
        return await asyncio.to_thread(self.screen, text, role, thresholds=thresholds)

    def count_tokens(self, text: str) -> int:
        """The tokens of a text, as `Alarm.tokens` counts them, without screening it."""
        return len(self._load()[0].encode(readable(text)).ids)

    @property
    def config(self) -> FirewallConfig:
        """What it was constructed with."""
        return self._config

    @property
    def codebook(self) -> Codebook:
        """The codebook in use, loaded if it was not."""
        return self._load()[1]

    def _reader(
        self, model: DetectorModel, codebook: Codebook, role: Role, limits: Thresholds
    ) -> _Reader:
        # What the first layer may settle was measured at the codebook's own threshold.
        sound = limits.suspicious >= codebook.thresholds[role].suspicious
        early = self._config.early_exit and sound
        return _Reader(model, codebook, role, early, thread_count(self._config.threads))

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
            codebook.reads,
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
    """The text with U+FFFD for what the tokenizer would drop or refuse.

    It has the same length, so every offset stays in place.
    """
    return _UNREADABLE.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class _Screened:
    """One reading of a text, and what was found in each of its windows."""

    reading: Reading
    passage: Passage
    results: Sequence[DetectionResult]

    @property
    def worst(self) -> DetectionResult | None:
        return max(self.results, key=lambda result: result.score, default=None)

    @property
    def score(self) -> float:
        return self.worst.score if self.worst else 0.0

    @property
    def odd(self) -> bool:
        return any(result.odd.any() for result in self.results)


@dataclass(frozen=True, slots=True)
class _Reader:
    """What windows are read with, and how."""

    model: DetectorModel
    codebook: Codebook
    role: Role
    early: bool
    threads: int

    def detect(
        self, passage: Passage, starts: Sequence[int], place: tuple[int, int]
    ) -> DetectionResult:
        """What one window of the model found, places counted from the text's start;
        `starts` are its `paragraph_starts`."""
        window = passage.part(*place)
        paragraphs = paragraph_blocks(starts, place, self.codebook.windows.block)
        states = infer_by_layer(self.model, [self.model.bos_id, *window.ids])
        # Position 0 is the BOS token: an attention sink, not text.
        of_text = ((layer, state[1:]) for layer, state in states)
        found = self.codebook.scan_by_layer(
            of_text, window, self.role, paragraphs, early=self.early
        )
        return found.shifted(place[0])


def _passage(text: str, encoding: Encoding, disguised: Mask | None = None) -> Passage:
    return Passage(encoding.ids, encoding.offsets, text, disguised)


def _disguised(text: str, encoding: Encoding, others: Sequence[Reading]) -> Mask | None:
    """Which tokens of the raw text another reading has otherwise, `(tokens,)`."""
    if not others:
        return None
    undone = np.zeros(len(text) + 1, dtype=np.int64)
    for reading in others:
        for start, end in reading.undone(text):
            undone[start + 1 : end + 1] = 1
    before = np.cumsum(undone)
    starts, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
    return np.asarray(before[ends] > before[starts])


def _screened(reader: _Reader, reading: Reading, passage: Passage) -> _Screened:
    """What each window found. Several are run side by side: one window keeps two
    cores only half busy."""
    shape = reader.codebook.windows
    bounds = window_bounds(len(passage.ids), shape.tokens, shape.overlap)
    apart = reader.role in BY_PARAGRAPH
    starts = paragraph_starts(passage.text, passage.offsets) if apart else []
    detect = partial(reader.detect, passage, starts)
    if len(bounds) < 2 or reader.threads < 2:
        return _Screened(reading, passage, [detect(place) for place in bounds])
    with ThreadPoolExecutor(max_workers=min(reader.threads, len(bounds))) as pool:
        return _Screened(reading, passage, list(pool.map(detect, bounds)))


def _alarm(
    codebook: Codebook,
    role: Role,
    read: Sequence[_Screened],
    limits: Thresholds,
    anomalous: bool,
    started: float,
) -> Alarm:
    """The worst reading decides; the text as it is comes first in `read`."""
    first = read[0]
    decisive = max(read, key=lambda screened: screened.score)
    worst = decisive.worst
    level = max(_level(decisive.score, limits), AlarmLevel(anomalous))
    return Alarm(
        level=level,
        score=decisive.score,
        role=role,
        spans=_spans(read, limits.suspicious, anomalous) if level else (),
        signals=tuple(codebook.score(worst.z, role, top=_SIGNALS)) if worst else (),
        windows=sum(len(screened.results) for screened in read),
        tokens=len(first.passage.ids),
        elapsed=time.perf_counter() - started,
        reading=decisive.reading.name,
        settled=sum(_settled(screened, codebook) for screened in read),
        anomalous=anomalous,
    )


def _settled(screened: _Screened, codebook: Codebook) -> int:
    """The windows that were not read down to the last layer."""
    return sum(len(result.z) < len(codebook.layers) for result in screened.results)


def _level(score: float, limits: Thresholds) -> AlarmLevel:
    if score >= limits.dangerous:
        return AlarmLevel.DANGEROUS
    return AlarmLevel.SUSPICIOUS if score >= limits.suspicious else AlarmLevel.CLEAR


def _spans(read: Sequence[_Screened], threshold: float, odd: bool) -> tuple[Span, ...]:
    """The places that alarm in any reading, neighbours joined."""
    found = [
        span
        for screened in read
        for result in screened.results
        for span in _places(screened, result, threshold, odd)
    ]
    joined: list[Span] = []
    for span in sorted(found, key=lambda span: span.start):
        _join(joined, span)
    return tuple(joined)


def _places(
    screened: _Screened, result: DetectionResult, threshold: float, odd: bool
) -> Iterator[Span]:
    """Where in the original text the places are that reach the threshold, or are odd if
    those are wanted too."""
    offsets = screened.passage.offsets
    alarming = (result.scores >= threshold) | (result.odd & odd)
    for (first, last), score, wanted in zip(result.places, result.scores, alarming, strict=True):
        if wanted:
            start, end = screened.reading.original(offsets[first][0], offsets[last - 1][1])
            yield Span(start, end, float(score))


def _join(spans: list[Span], span: Span) -> None:
    if spans and span.start <= spans[-1].end:
        last = spans.pop()
        span = Span(last.start, max(last.end, span.end), max(last.score, span.score))
    spans.append(span)

"""Traces and metrics: every name in one place, and what is recorded under it.

Nothing of a request's content is ever recorded: no text, no header, no query,
and a model's name only where it has the form of a name. Where the traces and
metrics go is configured in `exporters`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from ..alarm import Alarm
from .capture import captured
from .options import CaptureConfig
from .policy import Verdict

__all__ = ["Telemetry"]

SCOPE = "alknet_firewall.proxy"
SERVICE = "alknet-firewall"

# Spans. The server span is named `POST /v1/chat/completions`, the upstream
# span `chat <model>` or by its method, as the HTTP and GenAI conventions ask.
SCREEN_SPAN = "screen"

# Attributes of the OpenTelemetry conventions.
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"

# Attributes of our own, until the GenAI conventions settle on guardrails.
REQUEST_ID = "alknet.firewall.request_id"
ACTION = "alknet.firewall.action"
LEVEL = "alknet.firewall.level"
SCORE = "alknet.firewall.score"
ROLE = "alknet.firewall.role"
PATH = "alknet.firewall.json_path"
READING = "alknet.firewall.reading"
TEXTS = "alknet.firewall.texts"
WINDOWS = "alknet.firewall.windows"
TOKENS = "alknet.firewall.tokens"
FAIL = "alknet.firewall.fail"
UPSTREAM = "alknet.firewall.upstream"
WOULD = "alknet.firewall.would"
KIND = "alknet.firewall.kind"
REMEMBERED = "alknet.firewall.remembered"
RESULT = "alknet.firewall.result"
CLIENT = "alknet.firewall.client"

# Metrics.
SERVER_DURATION = "http.server.request.duration"
ACTIVE = "http.server.active_requests"
FIRST_BYTE = "gen_ai.server.time_to_first_token"
REQUESTS = "alknet.firewall.requests"
ALARMS = "alknet.firewall.alarms"
NOT_SCREENED = "alknet.firewall.not_screened"
SCREEN_DURATION = "alknet.firewall.screen.duration"
SCREEN_TOKENS = "alknet.firewall.screen.tokens"
SCREEN_FAILURES = "alknet.firewall.screen.failures"
QUEUE_DEPTH = "alknet.firewall.screen.queue"
CACHE_LOOKUPS = "alknet.firewall.cache.lookups"
UPSTREAM_DURATION = "alknet.firewall.upstream.first_byte.duration"
ANSWERS = "alknet.firewall.answers"

# Events of the GenAI conventions.
EVALUATION = "gen_ai.evaluation.result"
EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_SCORE = "gen_ai.evaluation.score.value"
EVALUATION_LABEL = "gen_ai.evaluation.score.label"

# Only where capturing content was asked for.
CONTENT_EVENT = "alknet.firewall.content"
CONTENT = "alknet.firewall.text"

_NO_CAPTURE = CaptureConfig()
_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_MODEL_NAME = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")


class Telemetry:
    """Spans and metrics of the proxy, on the providers it is given."""

    def __init__(
        self,
        tracers: trace.TracerProvider | None = None,
        meters: metrics.MeterProvider | None = None,
        shutdown: Callable[[], None] = lambda: None,
        exposition: Callable[[], bytes] | None = None,
    ) -> None:
        self._tracer = (tracers or trace.NoOpTracerProvider()).get_tracer(SCOPE)
        self._meter = meter = (meters or metrics.NoOpMeterProvider()).get_meter(SCOPE)
        self._served = self._seconds(SERVER_DURATION, "Time to serve a request")
        self._first_byte = self._seconds(FIRST_BYTE, "Time until a streamed answer begins")
        self._screened = self._seconds(SCREEN_DURATION, "Time to screen a request")
        self._upstream = self._seconds(UPSTREAM_DURATION, "Time until the upstream answers")
        self._active = meter.create_up_down_counter(ACTIVE, "{request}", "Requests being served")
        self._requests = meter.create_counter(REQUESTS, "{request}", "Requests by action")
        self._alarms = meter.create_counter(ALARMS, "{text}", "Texts judged, by level")
        self._passed = meter.create_counter(NOT_SCREENED, "{part}", "What no screening can read")
        self._tokens = meter.create_counter(SCREEN_TOKENS, "{token}", "Tokens screened")
        self._lookups = meter.create_counter(CACHE_LOOKUPS, "{text}", "Texts looked up, by result")
        self._failures = meter.create_counter(SCREEN_FAILURES, "{request}", "Failed screenings")
        self._answers = meter.create_counter(ANSWERS, "{answer}", "Answers with an alarm")
        self.shutdown = shutdown
        """Sends what is still held back. Blocks."""
        self.exposition = exposition
        """The metrics as Prometheus reads them, or None where nobody asked for them."""

    def _seconds(self, name: str, description: str) -> metrics.Histogram:
        return self._meter.create_histogram(
            name, "s", description, explicit_bucket_boundaries_advisory=_SECONDS
        )

    def observe_queue(self, depth: Callable[[], int]) -> None:
        """Measure `depth` whenever metrics are collected."""

        def observe(options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
            yield metrics.Observation(depth())

        self._meter.create_observable_gauge(
            QUEUE_DEPTH, [observe], "{batch}", "Batches that wait to be screened"
        )

    @contextmanager
    def server_span(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of one request, a child of the caller's where it sends one."""
        parent = propagate.extract(headers)
        span = self._tracer.start_span(
            method, parent, SpanKind.SERVER, attributes={HTTP_METHOD: method}
        )
        self._active.add(1)
        try:
            with _current(span):
                yield span
        finally:
            self._active.add(-1)

    @contextmanager
    def screen_span(self) -> Iterator[Span]:
        """The span of screening one request. An error is recorded by its type only."""
        with _current(self._tracer.start_span(SCREEN_SPAN)) as span:
            try:
                yield span
            except Exception as error:
                fail_span(span, type(error).__name__)
                raise

    def start_upstream_span(self, name: str, address: str, port: int) -> Span:
        """The span of one call to the upstream; whoever reads the answer ends it."""
        where: dict[str, str | int] = {SERVER_ADDRESS: address, SERVER_PORT: port}
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=where)

    def record_verdict(
        self, span: Span, verdict: Verdict, capture: CaptureConfig = _NO_CAPTURE
    ) -> None:
        """What screening one request came to, on its span and in the metrics."""
        span.set_attributes(
            {
                ACTION: verdict.action,
                WOULD: verdict.intended,
                LEVEL: verdict.level.name,
                SCORE: verdict.score,
                TEXTS: len(verdict.findings),
                TOKENS: sum(finding.alarm.tokens for finding in verdict.findings),
                WINDOWS: sum(finding.alarm.windows for finding in verdict.findings),
            }
        )
        if verdict.worst and verdict.intended != "allow":
            worst = verdict.worst
            span.set_attributes({ROLE: worst.text.role, PATH: worst.text.json_path})
            span.set_attribute(READING, worst.alarm.reading)
        if verdict.findings:
            span.add_event(EVALUATION, _evaluation(verdict))
        if capture.spans:
            _add_content(span, verdict, capture)
        for finding in verdict.findings:
            self._alarms.add(1, {LEVEL: finding.alarm.level.name, ROLE: finding.text.role})
        for item in verdict.unscreened:
            self._passed.add(1, {KIND: item.kind})
        self._screened.record(verdict.elapsed)

    def record_screened(self, remembered: int, fresh: Sequence[Alarm]) -> None:
        """How many alarms were remembered, and those that were not."""
        trace.get_current_span().set_attribute(REMEMBERED, remembered)
        self._lookups.add(remembered, {RESULT: "hit"})
        self._lookups.add(len(fresh), {RESULT: "miss"})
        self._tokens.add(sum(alarm.tokens for alarm in fresh))

    def record_failure(self, error: Exception, fail: str) -> None:
        """A screening that failed, and whether the proxy failed open or closed."""
        self._failures.add(1, {ERROR_TYPE: type(error).__name__, FAIL: fail})

    def record_request(
        self, route: str, action: str, status: int, elapsed: float, would: str = ""
    ) -> None:
        """A request that was answered; `elapsed` in seconds."""
        self._requests.add(1, {HTTP_ROUTE: route, ACTION: action, WOULD: would or action})
        self._served.record(elapsed, {HTTP_ROUTE: route, HTTP_STATUS: status})

    def record_first_byte(self, route: str, elapsed: float) -> None:
        """Seconds from a request to the first byte of its streamed answer."""
        self._first_byte.record(elapsed, {HTTP_ROUTE: route})

    def record_upstream(self, name: str, elapsed: float) -> None:
        """Seconds until the answer of the upstream of this name began."""
        self._upstream.record(elapsed, {UPSTREAM: name})

    def record_answer(self, route: str, level: str, action: str) -> None:
        """An answer in which something was found."""
        self._answers.add(1, {HTTP_ROUTE: route, LEVEL: level, ACTION: action})


def _add_content(span: Span, verdict: Verdict, capture: CaptureConfig) -> None:
    for finding in verdict.findings:
        if finding.alarm.level:
            content = captured(finding.text.text, capture)
            span.add_event(CONTENT_EVENT, {PATH: finding.text.json_path, CONTENT: content})


def _evaluation(verdict: Verdict) -> dict[str, str | float]:
    return {
        EVALUATION_NAME: "prompt_injection",
        EVALUATION_SCORE: verdict.score,
        EVALUATION_LABEL: verdict.level.name,
    }


def _current(span: Span) -> AbstractContextManager[Span]:
    # An exception's words could be a request's, so they stay off the span.
    return trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    )


def trace_headers(span: Span) -> dict[str, str]:
    """The headers that make the receiver's spans children of `span`."""
    headers: dict[str, str] = {}
    propagate.inject(headers, context=trace.set_span_in_context(span))
    return headers


def name_call(span: Span, operation: str, provider: str, model: str | None) -> None:
    """Say of an upstream span what it asks for, in whose API, and of which model."""
    span.set_attributes({OPERATION: operation, PROVIDER: provider})
    span.update_name(operation)
    if model and _MODEL_NAME.fullmatch(model):
        span.set_attribute(MODEL, model)
        span.update_name(f"{operation} {model}")


def fail_span(span: Span, kind: str) -> None:
    """Mark a span as failed. `kind` is a status or the name of an exception."""
    span.set_attribute(ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR)

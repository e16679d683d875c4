"""Traces and metrics: every name in one place, and what is recorded under it.

Nothing of a request's content is ever recorded: no text, no header, no query,
and a model's name only where it has the form of a name. Without any of the
standard `OTEL_*` variables nothing is recorded at all; trace context is passed
on all the same.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from .policy import Verdict

__all__ = ["Telemetry", "telemetry_from_environment"]

_log = logging.getLogger(__name__)

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
TEXTS = "alknet.firewall.texts"
WINDOWS = "alknet.firewall.windows"
TOKENS = "alknet.firewall.tokens"
FAIL = "alknet.firewall.fail"
UPSTREAM = "alknet.firewall.upstream"

# Metrics.
SERVER_DURATION = "http.server.request.duration"
REQUESTS = "alknet.firewall.requests"
ALARMS = "alknet.firewall.alarms"
SCREEN_DURATION = "alknet.firewall.screen.duration"
SCREEN_TOKENS = "alknet.firewall.screen.tokens"
SCREEN_FAILURES = "alknet.firewall.screen.failures"
UPSTREAM_DURATION = "alknet.firewall.upstream.first_byte.duration"

_MODEL_NAME = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")


class Telemetry:
    """Spans and metrics of the proxy, on the providers it is given."""

    def __init__(
        self,
        tracers: trace.TracerProvider | None = None,
        meters: metrics.MeterProvider | None = None,
        shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self._tracer = (tracers or trace.NoOpTracerProvider()).get_tracer(SCOPE)
        meter = (meters or metrics.NoOpMeterProvider()).get_meter(SCOPE)
        self._served = meter.create_histogram(SERVER_DURATION, "s", "Time to serve a request")
        self._requests = meter.create_counter(REQUESTS, "{request}", "Requests by action")
        self._alarms = meter.create_counter(ALARMS, "{text}", "Texts screened, by level")
        self._screened = meter.create_histogram(SCREEN_DURATION, "s", "Time to screen a request")
        self._tokens = meter.create_counter(SCREEN_TOKENS, "{token}", "Tokens screened")
        self._failures = meter.create_counter(
            SCREEN_FAILURES, "{request}", "Screenings that failed"
        )
        self._upstream = meter.create_histogram(
            UPSTREAM_DURATION, "s", "Time until the upstream's answer begins"
        )
        self.shutdown = shutdown
        """Sends what is still held back. Blocks."""

    @contextmanager
    def server_span(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of one request, a child of the caller's where it sends one."""
        parent = propagate.extract(headers)
        span = self._tracer.start_span(
            method, parent, SpanKind.SERVER, attributes={HTTP_METHOD: method}
        )
        with _current(span):
            yield span

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

    def record_verdict(self, span: Span, verdict: Verdict) -> None:
        """What screening one request came to, on its span and in the metrics."""
        tokens = sum(finding.alarm.tokens for finding in verdict.findings)
        span.set_attributes(
            {
                ACTION: verdict.action,
                LEVEL: verdict.level.name,
                SCORE: verdict.score,
                TEXTS: len(verdict.findings),
                TOKENS: tokens,
                WINDOWS: sum(finding.alarm.windows for finding in verdict.findings),
            }
        )
        if verdict.worst and verdict.action != "allow":
            span.set_attributes({ROLE: verdict.worst.text.role, PATH: verdict.worst.text.json_path})
        for finding in verdict.findings:
            self._alarms.add(1, {LEVEL: finding.alarm.level.name, ROLE: finding.text.role})
        self._screened.record(verdict.elapsed)
        self._tokens.add(tokens)

    def record_failure(self, error: Exception, fail: str) -> None:
        """A screening that failed, and whether the proxy failed open or closed."""
        self._failures.add(1, {ERROR_TYPE: type(error).__name__, FAIL: fail})

    def record_request(self, route: str, action: str, status: int, elapsed: float) -> None:
        """A request that was answered; `elapsed` in seconds."""
        self._requests.add(1, {HTTP_ROUTE: route, ACTION: action})
        self._served.record(elapsed, {HTTP_ROUTE: route, HTTP_STATUS: status})

    def record_upstream(self, name: str, elapsed: float) -> None:
        """Seconds until the answer of the upstream of this name began."""
        self._upstream.record(elapsed, {UPSTREAM: name})


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


def telemetry_from_environment(
    environ: Mapping[str, str] = os.environ,
) -> Telemetry:
    """Telemetry as the standard `OTEL_*` variables configure it."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry()
    traces = _exporters("TRACES", environ)
    measures = _exporters("METRICS", environ)
    return _start(traces, measures, environ) if traces or measures else Telemetry()


def _exporters(signal: str, environ: Mapping[str, str]) -> list[str]:
    """The exporters named for a signal: `otlp` or `console`, or none of them.

    The convention's default is `otlp` to localhost. Ours is silence, because a
    proxy nobody told of a collector should not complain that there is none.
    """
    names = environ.get(variable := f"OTEL_{signal}_EXPORTER", "")
    if not names.strip():
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        names = "otlp" if any(environ.get(name) for name in endpoints) else "none"
    chosen = [name.strip().lower() for name in names.split(",")]
    for name in chosen:
        if name not in ("otlp", "console", "none", ""):
            _log.warning("%s: %r is ignored, use otlp, console or none", variable, name)
    _check_protocol(signal, chosen, environ)
    return [name for name in chosen if name in ("otlp", "console")]


def _check_protocol(signal: str, chosen: list[str], environ: Mapping[str, str]) -> None:
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if "otlp" in chosen and environ.get(name, "http/protobuf") != "http/protobuf":
            _log.warning("%s: only http/protobuf is supported, and is used", name)


def _start(traces: list[str], measures: list[str], environ: Mapping[str, str]) -> Telemetry:
    # The SDK takes a quarter of a second to import: only where it is used.
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        ConsoleMetricExporter,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )

    resource = Resource.create(_resource(environ))
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    if "otlp" in traces:
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if "console" in traces:
        tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
    makers = {"otlp": OTLPMetricExporter, "console": ConsoleMetricExporter}
    readers = [PeriodicExportingMetricReader(makers[name]()) for name in measures]
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)

    def shutdown() -> None:
        tracers.shutdown()
        meters.shutdown()

    return Telemetry(tracers if traces else None, meters if measures else None, shutdown)


def _resource(environ: Mapping[str, str]) -> dict[str, str]:
    attributes = {"service.version": version("alknet-firewall")}
    # Given attributes win over the environment's, so name only what has none.
    if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = SERVICE
    return attributes

"""One trace a request, exported by the standard variables, and no content in it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from alknet_firewall.config import CaptureConfig, PolicyConfig
from alknet_firewall.proxy.exporters import telemetry_from_environment
from alknet_firewall.proxy.telemetry import Telemetry

from .conftest import proxy_client
from .fakes import ATTACK, FakeFirewall, Recorder, config

CHAT = "/v1/chat/completions"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRETS = ("hush hush", ATTACK, "sk-secret", "query-secret", "header-secret")


def chat(text: str, **fields: object) -> dict[str, Any]:
    return {"model": "gpt-x", "messages": [{"role": "user", "content": text}], **fields}


class Recording:
    """Telemetry that keeps what it is told."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(tracers, meters)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def metrics(self) -> str:
        data = self.reader.get_metrics_data()
        return data.to_json() if data else ""


@pytest.fixture
def recording() -> Recording:
    return Recording()


async def test_one_trace_with_three_spans(
    firewall: FakeFirewall, upstream: Recorder, recording: Recording
) -> None:
    async with proxy_client(config(), firewall, upstream, telemetry=recording.telemetry) as client:
        await client.post(CHAT, json=chat("hi"), headers={"traceparent": PARENT})
    spans = recording.spans()
    server, screen, sent = spans[f"POST {CHAT}"], spans["screen"], spans["chat gpt-x"]
    assert len(spans) == 3
    assert {span.context.trace_id for span in spans.values() if span.context} == {
        int(PARENT[3:35], 16)
    }
    assert server.parent is not None
    assert server.parent.span_id == int(PARENT[36:52], 16)
    assert server.context is not None
    for child in (screen, sent):
        assert child.parent is not None
        assert child.parent.span_id == server.context.span_id
    assert (server.kind, sent.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert sent.context is not None
    assert f"{sent.context.span_id:016x}" in upstream.requests[0].headers["traceparent"]


async def test_what_the_spans_say(
    firewall: FakeFirewall, upstream: Recorder, recording: Recording
) -> None:
    async with proxy_client(config(), firewall, upstream, telemetry=recording.telemetry) as client:
        await client.post(CHAT, json=chat(ATTACK))
        await client.post(CHAT, json=chat("hi"))
    spans = {
        span.name: dict(span.attributes or {})
        for span in recording.exporter.get_finished_spans()[:2]
    }
    assert spans["screen"] == {
        "alknet.firewall.action": "block",
        "alknet.firewall.would": "block",
        "alknet.firewall.remembered": 0,
        "alknet.firewall.level": "DANGEROUS",
        "alknet.firewall.score": 0.9,
        "alknet.firewall.role": "user",
        "alknet.firewall.json_path": "messages[0].content",
        "alknet.firewall.reading": "raw",
        "alknet.firewall.texts": 1,
        "alknet.firewall.tokens": 3,
        "alknet.firewall.windows": 1,
    }
    assert spans[f"POST {CHAT}"]["http.response.status_code"] == 400
    metrics = recording.metrics()
    for name in (
        "http.server.request.duration",
        "alknet.firewall.requests",
        "alknet.firewall.alarms",
        "alknet.firewall.screen.duration",
        "alknet.firewall.screen.tokens",
        "alknet.firewall.upstream.first_byte.duration",
    ):
        assert f'"{name}"' in metrics


async def test_reading_the_models_is_no_chat(
    firewall: FakeFirewall, upstream: Recorder, recording: Recording
) -> None:
    async with proxy_client(config(), firewall, upstream, telemetry=recording.telemetry) as client:
        await client.get("/v1/models/gpt-x")
    spans = recording.spans()
    assert set(spans) == {"GET /v1/models/{model}", "GET"}
    assert dict(spans["GET"].attributes or {}) == {
        "server.address": "upstream.test",
        "server.port": 80,
        "http.response.status_code": 200,
    }


async def test_no_content_is_ever_recorded(upstream: Recorder, recording: Recording) -> None:
    broken = FakeFirewall(error=ValueError("hush hush"))
    async with proxy_client(config(), broken, upstream, telemetry=recording.telemetry) as client:
        for body in (chat("hush hush"), chat("x", model="hush hush", tools=[{ATTACK: ATTACK}])):
            await client.post(
                f"{CHAT}?key=query-secret",
                json=body,
                headers={"authorization": "Bearer sk-secret", "x-note": "header-secret"},
            )
            await client.post("/v1/hush hush", json=body)
    everything = recording.metrics() + "".join(
        span.to_json() for span in recording.exporter.get_finished_spans()
    )
    assert "alknet.firewall.screen.failures" in everything
    assert not [secret for secret in SECRETS if secret in everything]


async def test_context_passes_through_when_nothing_is_recorded(
    firewall: FakeFirewall, upstream: Recorder
) -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=b", "baggage": "k=v"}
    async with proxy_client(config(), firewall, upstream, telemetry=Telemetry()) as client:
        await client.post(CHAT, json=chat("hi"), headers=headers)
    sent = upstream.requests[0].headers
    assert {name: sent[name] for name in headers} == headers


# --- export, by the standard variables ---------------------------------------


class Collector:
    """An OTLP receiver over HTTP in this process."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: set[str] = set()
        self.resources: list[dict[str, str]] = []

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(
                    {item.key: item.value.string_value for item in resource.resource.attributes}
                )
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        else:
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in measured.scope_metrics:
                    self.metrics |= {metric.name for metric in scope.metrics}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield kept
        server.shutdown()
        thread.join()


async def test_export_to_a_collector(
    collector: Collector, firewall: FakeFirewall, upstream: Recorder
) -> None:
    async with proxy_client(config(), firewall, upstream) as client:
        await client.post(CHAT, json=chat(ATTACK))
        await client.post(CHAT, json=chat("hush hush"))
    # Leaving the proxy has flushed what was held back.
    assert sorted(span.name for span in collector.spans) == [
        f"POST {CHAT}",
        f"POST {CHAT}",
        "chat gpt-x",
        "screen",
        "screen",
    ]
    assert "alknet.firewall.requests" in collector.metrics
    assert collector.resources[0]["service.name"] == "alknet-firewall"
    assert not [secret for secret in SECRETS if secret in str(collector.spans)]


async def test_service_name_is_the_operators(
    collector: Collector,
    firewall: FakeFirewall,
    upstream: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge")
    async with proxy_client(config(), firewall, upstream) as client:
        await client.post(CHAT, json=chat("hi"))
    assert collector.resources[0]["service.name"] == "edge"


async def test_disabled_means_silent(
    collector: Collector,
    firewall: FakeFirewall,
    upstream: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with proxy_client(config(), firewall, upstream) as client:
        await client.post(CHAT, json=chat("hi"))
    assert not collector.spans
    assert not collector.metrics


def test_console_exporter(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry = telemetry_from_environment({"OTEL_TRACES_EXPORTER": "console"})
    with telemetry.screen_span():
        pass
    telemetry.shutdown()
    assert '"name": "screen"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "environ",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SERVICE_NAME": "x"}],
)
def test_silent_without_an_exporter(environ: dict[str, str]) -> None:
    telemetry = telemetry_from_environment(environ)
    with telemetry.screen_span() as span:
        assert not span.is_recording()


def test_unknown_exporter_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        telemetry_from_environment({"OTEL_TRACES_EXPORTER": "zipkin"})
        telemetry_from_environment(
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        ).shutdown()
    assert "'zipkin' is ignored" in caplog.text
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf" in caplog.text


async def test_the_screen_span_carries_an_evaluation(
    firewall: FakeFirewall, upstream: Recorder, recording: Recording
) -> None:
    async with proxy_client(config(), firewall, upstream, telemetry=recording.telemetry) as client:
        await client.post(CHAT, json=chat(ATTACK))
    [event] = recording.spans()["screen"].events
    assert event.name == "gen_ai.evaluation.result"
    assert dict(event.attributes or {}) == {
        "gen_ai.evaluation.name": "prompt_injection",
        "gen_ai.evaluation.score.value": 0.9,
        "gen_ai.evaluation.score.label": "DANGEROUS",
    }


async def test_content_is_on_spans_only_where_it_is_asked_for(
    firewall: FakeFirewall, upstream: Recorder, recording: Recording
) -> None:
    settings = replace(config(), capture=CaptureConfig(spans=True))
    async with proxy_client(settings, firewall, upstream, telemetry=recording.telemetry) as client:
        await client.post(CHAT, json=chat(f"{ATTACK} or ask bob@example.com"))
    events = [event for event in recording.spans()["screen"].events if "content" in event.name]
    assert [dict(event.attributes or {})["alknet.firewall.text"] for event in events] == [
        f"{ATTACK} or ask [redacted]"
    ]


async def test_what_shadow_mode_would_have_done_is_counted(
    firewall: FakeFirewall, upstream: Recorder, recording: Recording
) -> None:
    settings = config(PolicyConfig(mode="shadow"))
    async with proxy_client(settings, firewall, upstream, telemetry=recording.telemetry) as client:
        await client.post(CHAT, json=chat(ATTACK))
    [point] = points(recording, "alknet.firewall.requests")
    assert point.attributes["alknet.firewall.action"] == "log"
    assert point.attributes["alknet.firewall.would"] == "block"


async def test_a_slow_request_leads_to_its_trace(
    firewall: FakeFirewall, upstream: Recorder, recording: Recording
) -> None:
    async with proxy_client(config(), firewall, upstream, telemetry=recording.telemetry) as client:
        await client.post(CHAT, json=chat("hi"))
    context = recording.spans()[f"POST {CHAT}"].context
    assert context is not None
    # In one reading: an exemplar is told once.
    [screened] = points(recording, "alknet.firewall.screen.duration")
    assert [item.trace_id for item in screened.exemplars] == [context.trace_id]


async def test_the_first_byte_of_a_stream_is_timed(
    firewall: FakeFirewall, recording: Recording
) -> None:
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, text="data: 1\n\n")
    async with proxy_client(
        config(), firewall, Recorder(answer), telemetry=recording.telemetry
    ) as client:
        await client.post(CHAT, json=chat("hi"))
    [point] = points(recording, "gen_ai.server.time_to_first_token")
    assert point.count == 1


def points(recording: Recording, name: str) -> list[Any]:
    data = recording.reader.get_metrics_data()
    return [
        point
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]

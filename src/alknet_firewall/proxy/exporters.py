"""Where traces and metrics go, as the standard `OTEL_*` variables say."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from .telemetry import SERVICE, Telemetry

__all__ = ["telemetry_from_environment"]

_log = logging.getLogger(__name__)


def telemetry_from_environment(
    environ: Mapping[str, str] = os.environ, *, prometheus: bool = False
) -> Telemetry:
    """Telemetry as the standard `OTEL_*` variables configure it.

    With `prometheus` the metrics can also be fetched from `Telemetry.exposition`.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry()
    traces = _exporters("TRACES", environ)
    measures = _exporters("METRICS", environ) + (["prometheus"] if prometheus else [])
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
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
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
    readers, exposition = _readers(measures)
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)

    def shutdown() -> None:
        tracers.shutdown()
        meters.shutdown()

    return Telemetry(
        tracers if traces else None, meters if measures else None, shutdown, exposition
    )


def _readers(measures: list[str]) -> tuple[list[Any], Callable[[], bytes] | None]:
    """A reader for each exporter, and what Prometheus fetches where it is one of them."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import (
        ConsoleMetricExporter,
        PeriodicExportingMetricReader,
    )

    makers = {"otlp": OTLPMetricExporter, "console": ConsoleMetricExporter}
    readers: list[Any] = [
        PeriodicExportingMetricReader(makers[name]()) for name in measures if name in makers
    ]
    if "prometheus" not in measures:
        return readers, None
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, generate_latest

    # A registry of our own: the default one is shared by the whole process.
    registry = CollectorRegistry()
    readers.append(PrometheusMetricReader(registry=registry))
    return readers, lambda: generate_latest(registry)


def _resource(environ: Mapping[str, str]) -> dict[str, str]:
    attributes = {"service.version": version("alknet-firewall")}
    # Given attributes win over the environment's, so name only what has none.
    if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = SERVICE
    return attributes

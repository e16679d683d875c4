"""Answers of the proxy's own, in the shapes that OpenAI's clients expect."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from ..errors import ProxyError, RequestError
from .policy import Finding, Verdict

__all__ = ["blocked", "error_response", "failed_open_headers", "not_found", "verdict_headers"]

LEVEL_HEADER = "x-alknet-firewall-level"
SCORE_HEADER = "x-alknet-firewall-score"

# Official clients retry 408, 409, 429 and every 5xx unless told otherwise.
# The same request would only be screened, and refused, again.
_NO_RETRY = {"x-should-retry": "false"}


def error_body(
    message: str, *, type: str, code: str | None = None, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """The one shape of an error in OpenAI's API."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def error_response(error: ProxyError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error of the request or the upstream as the client gets it."""
    return JSONResponse(
        error_body(error.message, type=error.type, code=error.code, param=error.param),
        status_code=error.status,
        headers={**(headers or {}), **(_NO_RETRY if isinstance(error, RequestError) else {})},
    )


def blocked(verdict: Verdict, finding: Finding) -> JSONResponse:
    """A request stopped by the policy. It says where, and never what."""
    start = max(finding.alarm.spans, key=lambda span: span.score, default=None)
    place = f", characters {start.start} to {start.end}" if start else ""
    message = (
        f"The request was blocked: {finding.text.json_path}{place} looks like an attack "
        f"({finding.alarm.level.name}, score {finding.alarm.score:.3f})."
    )
    error = RequestError(message, code="content_filter", param=finding.text.json_path)
    return error_response(error, verdict_headers(verdict))


def unscreened() -> JSONResponse:
    """A request refused because it could not be screened; the log says why."""
    return JSONResponse(
        error_body(
            "The request could not be screened and was not forwarded: ask whoever runs the "
            "proxy to look at its log.",
            type="server_error",
            code="screening_failed",
        ),
        status_code=503,
        headers=_NO_RETRY,
    )


def not_found(method: str) -> RequestError:
    """A path that the proxy does not serve. The path is not repeated."""
    return RequestError(
        f"this {method} path is not served by alknet-firewall, which forwards only what it "
        "screens: POST /v1/chat/completions, GET /v1/models",
        status=404,
        code="not_found",
    )


def verdict_headers(verdict: Verdict) -> dict[str, str]:
    """The worst level and score over a request's texts."""
    return {LEVEL_HEADER: verdict.level.name, SCORE_HEADER: f"{verdict.score:.4f}"}


def failed_open_headers() -> dict[str, str]:
    """What a request forwarded without screening carries instead of a level."""
    return {LEVEL_HEADER: "UNSCREENED"}

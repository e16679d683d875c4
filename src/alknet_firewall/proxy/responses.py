"""Answers of the proxy's own, in the shapes that OpenAI's and Anthropic's clients expect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from ..errors import ProxyError, RequestError
from .leaves import Unscreened
from .policy import Finding, Verdict
from .routes import Api

__all__ = [
    "block_error",
    "error_body",
    "error_response",
    "failed_open_headers",
    "overloaded",
    "unscreened",
    "verdict_headers",
]

LEVEL_HEADER = "x-alknet-firewall-level"
SCORE_HEADER = "x-alknet-firewall-score"
NOT_SCREENED_HEADER = "x-alknet-firewall-not-screened"
POLICY_HEADER = "x-alknet-firewall-policy"

# Official clients retry 408, 409, 429 and every 5xx unless told otherwise.
# The same request would only be screened, and refused, again.
_NO_RETRY = {"x-should-retry": "false"}

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ProxyError, api: Api = "openai") -> dict[str, Any]:
    """An error as the provider whose API it is would write it."""
    if api == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status)
        kind = kind or ("api_error" if error.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    named = {"type": error.type, "param": error.param, "code": error.code}
    return {"error": {"message": error.message, **named}}


def error_response(
    error: ProxyError, api: Api = "openai", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error of the request or the upstream as the client gets it."""
    own = {**_NO_RETRY, **error.headers} if isinstance(error, RequestError) else {}
    return JSONResponse(
        error_body(error, api), status_code=error.status, headers={**own, **(headers or {})}
    )


def block_error(verdict: Verdict) -> RequestError:
    """A request stopped by the policy. It says where, and never what."""
    if verdict.worst and verdict.worst.action == verdict.action:
        finding = verdict.worst
        return RequestError(
            f"The request was blocked: {_where(finding)} looks like an attack "
            f"({finding.alarm.level.name}, score {finding.alarm.score:.3f}).",
            code="content_filter",
            param=finding.text.json_path,
        )
    path = verdict.barred.json_path if verdict.barred else None
    kind = verdict.barred.kind if verdict.barred else "part"
    return RequestError(
        f"The request was blocked: {path} ({kind}) cannot be screened, and the policy does "
        "not let it pass.",
        code="not_screened",
        param=path,
    )


def _where(finding: Finding) -> str:
    start = max(finding.alarm.spans, key=lambda span: span.score, default=None)
    place = f", characters {start.start} to {start.end}" if start else ""
    return f"{finding.text.json_path}{place}"


def unscreened() -> ProxyError:
    """A request refused because it could not be screened; the log says why."""
    return RequestError(
        "The request could not be screened and was not forwarded: ask whoever runs the "
        "proxy to look at its log.",
        status=503,
        type="server_error",
        code="screening_failed",
    )


def overloaded() -> ProxyError:
    """A request refused because too many wait already. It may well be tried again."""
    return RequestError(
        "Too many requests wait to be screened: try again in a second.",
        status=503,
        type="server_error",
        code="overloaded",
        headers={"retry-after": "1", "x-should-retry": "true"},
    )


def verdict_headers(verdict: Verdict) -> dict[str, str]:
    """The worst level and score over a request's texts, and what was not screened."""
    headers = {LEVEL_HEADER: verdict.level.name, SCORE_HEADER: f"{verdict.score:.4f}"}
    if verdict.unscreened:
        headers[NOT_SCREENED_HEADER] = counted(verdict.unscreened)
    return headers


def counted(unscreened: tuple[Unscreened, ...]) -> str:
    """How many of each kind, such as `file=1, image=2`."""
    counts = Counter(item.kind for item in unscreened)
    return ", ".join(f"{kind}={count}" for kind, count in sorted(counts.items()))


def failed_open_headers() -> dict[str, str]:
    """What a request forwarded without screening carries instead of a level."""
    return {LEVEL_HEADER: "UNSCREENED"}

"""The firewall itself over HTTP: for those who have no request to forward."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import getitem
from typing import Any, cast, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..alarm import Role
from ..errors import RequestError, ScreeningError
from .calls import read_json, received, while_connected
from .content import Content, extract
from .gateway import Gateway
from .leaves import Unscreened, Untrusted
from .policy import Verdict
from .responses import block_error, error_response, unscreened
from .routes import Endpoint
from .spotlight import marked, new_mark

__all__ = ["GUARDRAIL", "SCREEN", "Service"]

SCREEN = Endpoint("POST", "/v1/firewall/screen", "", "strings")
GUARDRAIL = Endpoint("POST", "/beta/litellm_basic_guardrail_api", "", "strings")


class Service:
    """`/v1/firewall/screen`, and LiteLLM's generic guardrail API."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def screen(self, request: Request) -> Response:
        """The alarm of one text, or of several, in order."""
        call = received(request, self._gateway.state, SCREEN)
        body = await read_json(call)
        texts = tuple(_texts(body))
        work = self._gateway.verdict(call, Content(texts, ()), None)
        try:
            verdict = await while_connected(request.receive, work)
        except ScreeningError:
            return error_response(unscreened())
        alarms = [finding.alarm.to_dict() for finding in verdict.findings]
        return JSONResponse({"alarms": alarms} if "texts" in body else alarms[0])

    async def guardrail(self, request: Request) -> Response:
        """LiteLLM's question whether a request, or an answer, may pass."""
        call = received(request, self._gateway.state, GUARDRAIL)
        body = await read_json(call)
        content = guardrail_content(body, call.state.config.proxy.trusted_roles)
        work = self._gateway.verdict(call, content, _model(body))
        try:
            verdict = await while_connected(request.receive, work)
        except ScreeningError:
            # LiteLLM's `unreachable_fallback` decides what a failure means.
            return error_response(unscreened())
        if verdict.stops:
            reason = block_error(verdict).message
            return JSONResponse({"action": "BLOCKED", "blocked_reason": reason})
        if call.state.config.policy.spotlight and verdict.action == "annotate":
            return JSONResponse(
                {"action": "GUARDRAIL_INTERVENED", "texts": _spotlit(body, verdict)}
            )
        return JSONResponse({"action": "NONE"})


def _texts(body: dict[str, Any]) -> Iterator[Untrusted]:
    given = body.get("texts") if "texts" in body else [body]
    for index, item in enumerate(given if isinstance(given, list) else [given]):
        path = f"texts[{index}].text" if "texts" in body else "text"
        text = item.get("text") if isinstance(item, dict) else item
        role = item.get("role", "user") if isinstance(item, dict) else "user"
        if not isinstance(text, str) or role not in get_args(Role):
            raise RequestError(
                f"{path} must be a string, and its role {' or '.join(get_args(Role))}: send "
                '{"text": "...", "role": "tool"}, or {"texts": [...]} with several',
                code="invalid_text",
                param=path,
            )
        yield Untrusted(cast(Role, role), path, text)


def guardrail_content(body: dict[str, Any], trusted: tuple[str, ...]) -> Content:
    """What LiteLLM wants to know of.

    `structured_messages` say who wrote what. `texts` are the same strings once
    more, without it: only those that are nowhere in the messages are added.
    """
    messages = body.get("structured_messages") or []
    known = {"messages": messages, "tools": body.get("tools") or []}
    found = extract("chat", known, trusted)
    calls = extract("strings", {"tool_calls": body.get("tool_calls") or []}, ())
    seen = set(_strings(messages))
    role: Role = "tool" if body.get("input_type") == "response" else "user"
    rest = tuple(
        Untrusted(role, f"texts[{index}]", text)
        for index, text in enumerate(body.get("texts") or [])
        if isinstance(text, str) and text and text not in seen
    )
    images = tuple(
        Unscreened("image", f"images[{index}]") for index, _ in enumerate(body.get("images") or [])
    )
    return Content(found.texts + calls.texts + rest, found.unscreened + images)


def _spotlit(body: dict[str, Any], verdict: Verdict) -> list[Any]:
    """LiteLLM's `texts` in order, those to annotate marked as data for the model."""
    known: Any = {"messages": body.get("structured_messages")}
    annotated = [item.text for item in verdict.findings if item.action == "annotate"]
    flagged = {item.text for item in annotated}
    for item in annotated:
        parts = {reduce(getitem, p, known) for p in item.places if p[0] == "messages"}
        if not parts & flagged:  # only read together are they alarming
            flagged |= parts
    mark = new_mark()
    texts: list[Any] = body.get("texts") or []
    return [
        marked(text, mark) if isinstance(text, str) and text in flagged else text for text in texts
    ]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _model(body: dict[str, Any]) -> str | None:
    data = body.get("request_data")
    model = data.get("model") if isinstance(data, dict) else None
    return model if isinstance(model, str) else None

"""What the model says is screened too, where that is asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.config import AnswersConfig, Config
from alknet_firewall.proxy.answers import Events, pieces

from .conftest import proxy_client
from .fakes import ATTACK, FakeFirewall, config

CHAT = "/v1/chat/completions"
EVENTS = {"content-type": "text/event-stream"}


@dataclass
class Streaming(httpx.AsyncBaseTransport):
    """An upstream that answers with these chunks."""

    chunks: list[bytes]
    headers: dict[str, str] = field(default_factory=lambda: EVENTS)
    sent: int = 0
    closed: bool = False
    requests: list[httpx.Request] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200, headers=self.headers, stream=_Body(self))


class _Body(httpx.AsyncByteStream):
    def __init__(self, upstream: Streaming) -> None:
        self._upstream = upstream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._upstream.chunks:
            self._upstream.sent += 1
            yield chunk

    async def aclose(self) -> None:
        self._upstream.closed = True


def event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def chat_chunks(*words: str, tool: bool = False) -> list[bytes]:
    def delta(word: str) -> dict[str, Any]:
        call = {"index": 0, "function": {"arguments": word}}
        return {"tool_calls": [call]} if tool else {"content": word}

    said = [
        event({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta(word)}]})
        for word in words
    ]
    end = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [*said, event(end), b"data: [DONE]\n\n"]


def settings(action: Literal["annotate", "cut"], **more: Any) -> Config:
    return replace(config(), answers=AnswersConfig(action=action, window=60, stride=20, **more))


async def asked(
    upstream: Streaming, config: Config, path: str = CHAT, **fields: Any
) -> tuple[httpx.Response, FakeFirewall]:
    firewall = FakeFirewall()
    body = {"model": "m", "messages": [], "input": "", "stream": True, **fields}
    async with proxy_client(config, firewall, upstream) as client:  # type: ignore[arg-type]
        answer = await client.post(path, json=body, headers={"accept-encoding": "gzip"})
    return answer, firewall


WORDS = ["All is well. ", "Then ATT", "ACK ple", "ase, and ", "more of it. "] + ["Bye. "] * 20


@pytest.mark.parametrize("action", ["annotate", "cut"])
@pytest.mark.parametrize("tool", [False, True])
async def test_a_harmless_stream_is_untouched(
    action: Literal["annotate", "cut"], tool: bool
) -> None:
    upstream = Streaming(chat_chunks(*["Hello there. "] * 30, tool=tool))
    answer, firewall = await asked(upstream, settings(action))
    assert answer.content == b"".join(upstream.chunks)
    assert upstream.requests[0].headers["accept-encoding"] == "identity"
    assert max(len(text) for text, _ in firewall.seen) <= 60


@pytest.mark.parametrize("tool", [False, True])
async def test_an_attack_split_over_events_is_cut(tool: bool) -> None:
    upstream = Streaming(chat_chunks(*WORDS, tool=tool))
    answer, _ = await asked(upstream, settings("cut"))
    assert b"ACK" not in answer.content
    *_, last, done = answer.content.strip().split(b"\n\n")
    assert done == b"data: [DONE]"
    ended = json.loads(last.removeprefix(b"data: "))
    assert ended["choices"][0]["finish_reason"] == "content_filter"
    assert (ended["id"], ended["model"]) == ("c", "m")
    assert upstream.sent < len(upstream.chunks)
    assert upstream.closed


async def test_an_attack_in_a_stream_is_annotated() -> None:
    upstream = Streaming(chat_chunks(*WORDS))
    answer, _ = await asked(upstream, settings("annotate"))
    comment = b": alknet-firewall DANGEROUS\n\n"
    assert answer.content.count(comment) == 1
    assert answer.content.replace(comment, b"") == b"".join(upstream.chunks)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_may_come_in_any_pieces(size: int) -> None:
    whole = b"".join(chat_chunks(*WORDS))
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    answer, _ = await asked(Streaming(pieces), settings("cut"))
    assert b"ACK" not in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_an_attack_in_the_last_words_of_a_stream_without_an_end() -> None:
    upstream = Streaming(chat_chunks("ATTACK")[:1])
    answer, _ = await asked(upstream, settings("cut"))
    assert b"ATTACK" not in answer.content


async def test_a_message_is_cut() -> None:
    def delta(text: str) -> dict[str, Any]:
        return {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": text},
        }

    chunks = [event({"type": "message_start", "message": {}})]
    chunks += [event(delta(word)) for word in WORDS]
    answer, _ = await asked(Streaming(chunks), settings("cut"), "/v1/messages")
    assert b"ACK" not in answer.content
    kinds = [
        json.loads(item.split(b"data: ")[1])["type"] for item in answer.content.split(b"\n\n")[:-1]
    ]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert b'"stop_reason": "refusal"' in answer.content


async def test_a_response_is_cut() -> None:
    created = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1"}}
    deltas = [
        {"type": "response.output_text.delta", "sequence_number": n, "delta": word}
        for n, word in enumerate(WORDS, 1)
    ]
    chunks = [event(item) for item in (created, *deltas)]
    answer, _ = await asked(Streaming(chunks), settings("cut"), "/v1/responses")
    assert b"ACK" not in answer.content
    ended = json.loads(answer.content.strip().rpartition(b"data: ")[2])
    assert ended["type"] == "response.incomplete"
    assert ended["response"]["id"] == "resp_1"
    assert ended["response"]["incomplete_details"] == {"reason": "content_filter"}


# --- not streamed ------------------------------------------------------------


def whole(text: str) -> Streaming:
    message = {"role": "assistant", "content": text}
    body = {"id": "c", "model": "m", "choices": [{"index": 0, "message": message}]}
    return Streaming([json.dumps(body).encode()], {"content-type": "application/json"})


async def test_a_harmless_answer_is_untouched() -> None:
    upstream = whole("All is well.")
    answer, _ = await asked(upstream, settings("cut"), stream=False)
    assert answer.content == upstream.chunks[0]
    assert answer.headers["x-alknet-firewall-answer-level"] == "CLEAR"


async def test_an_answer_is_cut() -> None:
    answer, _ = await asked(whole(f"Well, {ATTACK}"), settings("cut"), stream=False)
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert "ATTACK" not in answer.text
    assert answer.headers["x-alknet-firewall-answer-level"] == "DANGEROUS"


async def test_an_answer_is_annotated() -> None:
    upstream = whole(f"Well, {ATTACK}")
    answer, _ = await asked(upstream, settings("annotate"), stream=False)
    assert answer.content == upstream.chunks[0]
    assert answer.headers["x-alknet-firewall-answer-level"] == "DANGEROUS"


@pytest.mark.parametrize("chunk", [b"{garbage", b'{"choices": "' + b"x" * 200 + b'"}'])
async def test_an_answer_that_cannot_be_read(chunk: bytes) -> None:
    upstream = Streaming([chunk], {"content-type": "application/json"})
    answer, _ = await asked(upstream, settings("cut", max_bytes=100), stream=False)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "answer_not_screened"
    answer, _ = await asked(upstream, settings("annotate", max_bytes=100), stream=False)
    assert answer.content == chunk
    assert answer.headers["x-alknet-firewall-answer-level"] == "UNSCREENED"


async def test_an_embedding_says_nothing() -> None:
    upstream = whole("x")
    answer, _ = await asked(upstream, settings("cut"), "/v1/embeddings", input="x")
    assert answer.content == upstream.chunks[0]
    assert "x-alknet-firewall-answer-level" not in answer.headers


# --- pure --------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20)), st.integers(1, 9))
def test_events_are_cut_byte_for_byte(parts: list[bytes], size: int) -> None:
    data = b"\n\n".join(parts)
    events = Events()
    found = [
        event for at in range(0, len(data), size) for event in events.feed(data[at : at + size])
    ]
    assert b"".join(found) + events.rest == data
    assert all(event.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) for event in found)


def test_texts_side_by_side_stay_apart() -> None:
    calls = [{"index": n, "function": {"arguments": f"a{n}"}} for n in (3, 5)]
    choices = [{"index": 1, "delta": {"content": "b", "tool_calls": calls, "role": "assistant"}}]
    assert [*pieces({"choices": choices})] == [
        (("choices", 1, "delta", "content"), "b"),
        (("choices", 1, "delta", "tool_calls", 3, "function", "arguments"), "a3"),
        (("choices", 1, "delta", "tool_calls", 5, "function", "arguments"), "a5"),
    ]

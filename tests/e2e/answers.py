"""What an upstream answers on each route, as its documentation shows it."""

from __future__ import annotations

import json
from typing import Any

_USAGE = {"input_tokens": 3, "output_tokens": 2}
_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 0,
    "model": "echo",
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hello there", "annotations": []}],
        }
    ],
}
_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "echo",
    "content": [{"type": "text", "text": "hello there"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": _USAGE,
}

WHOLE: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 0,
        "model": "echo",
        "choices": [{"index": 0, "text": "hello there", "finish_reason": "stop", "logprobs": None}],
    },
    "/v1/responses": _RESPONSE,
    "/v1/embeddings": {
        "object": "list",
        "model": "echo",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    },
    "/v1/messages": _MESSAGE,
    "/v1/messages/count_tokens": {"input_tokens": 7},
}


def _event(data: Any) -> str:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n"


def _place(kind: str, **fields: Any) -> dict[str, Any]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return {"type": kind, **place, **fields}


_PIECES = ["hello ", "there"]

STREAMS: dict[str, list[str]] = {
    "/v1/completions": [
        *(
            _event({**WHOLE["/v1/completions"], "choices": [{"index": 0, "text": piece}]})
            for piece in _PIECES
        ),
        "data: [DONE]\n\n",
    ],
    "/v1/responses": [
        _event(event)
        for event in (
            {"type": "response.created", "sequence_number": 0, "response": _RESPONSE},
            *(
                _place("response.output_text.delta", sequence_number=n, delta=piece, logprobs=[])
                for n, piece in enumerate(_PIECES, 1)
            ),
            {"type": "response.completed", "sequence_number": 3, "response": _RESPONSE},
        )
    ],
    "/v1/messages": [
        _event(event)
        for event in (
            {"type": "message_start", "message": {**_MESSAGE, "content": []}},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            *(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": piece},
                }
                for piece in _PIECES
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 2},
            },
            {"type": "message_stop"},
        )
    ],
}

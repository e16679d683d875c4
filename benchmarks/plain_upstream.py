"""An OpenAI-compatible upstream that costs next to nothing: one fixed answer to every request.

    python benchmarks/plain_upstream.py PORT

No framework, so that what is measured in front of it is the proxy. Nothing but the
standard library, and it reads no more of a request than its Content-Length.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def _answer() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Gladly."}}
    completion = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "echo",
        "choices": [{**choice, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 64, "completion_tokens": 2, "total_tokens": 66},
    }
    body = json.dumps(completion).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


ANSWER = _answer()


class Connection(asyncio.Protocol):
    """Answers each request as soon as its last byte is here."""

    def __init__(self) -> None:
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while end := self._end():
            self._read = self._read[end:]
            self._transport.write(ANSWER)

    def _end(self) -> int:
        """Where the first request ends, or 0 while it is not all here."""
        head = self._read.find(b"\r\n\r\n")
        if head < 0:
            return 0
        length = _LENGTH.search(self._read, 0, head + 2)
        end = head + 4 + (int(length[1]) if length else 0)
        return end if len(self._read) >= end else 0


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(
        Connection, "127.0.0.1", int(sys.argv[1]), backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

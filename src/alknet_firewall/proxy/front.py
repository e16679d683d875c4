"""HTTP/1.1 as clients speak it, read by llhttp: uvicorn's own protocol, a little stricter.

Imported only where httptools is installed; elsewhere uvicorn reads with h11, which is
as strict and slower.
"""

from __future__ import annotations

from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Front"]

_MAX_HEAD = 65_536
"""Bytes of a request line and its headers; llhttp itself has no limit."""


class Front(HttpToolsProtocol):
    """One connection from a client.

    uvicorn would take the path out of a target with a host in it, add trailers to the
    headers that the request was judged by, and read headers without end.
    """

    _in_head = True
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's headers are too long.")

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        written, self.url = self.url, b"/"
        super().on_headers_complete()
        # The task that serves it has been made and has not run yet.
        path, _, query = written.partition(b"?")
        self.scope["raw_path"], self.scope["query_string"] = path, query
        self.scope["path"] = unquote(path.decode("ascii"))

"""A Hugging Face Hub in memory, below the client: at the HTTP transport."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import httpx

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Answer = Callable[[httpx.Request], httpx.Response]


class FakeHub:
    """Serves the files of one repository, at one commit.

    `fail` replaces the answer to the requests whose path holds `fail_on`.
    """

    def __init__(self, repo: str, files: Mapping[str, bytes], commit: str = COMMIT) -> None:
        self.repo = repo
        self.files = dict(files)
        self.commit = commit
        self.requests: list[httpx.Request] = []
        self.fail: Answer | None = None
        self.fail_on = "/"

    def client(self) -> httpx.Client:
        # The hook is the client's own: it is what stops requests in offline mode.
        from huggingface_hub.utils._http import hf_request_event_hook

        return httpx.Client(
            transport=httpx.MockTransport(self.answer),
            event_hooks={"request": [hf_request_event_hook]},
            follow_redirects=True,
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.fail and self.fail_on in request.url.path:
            return self.fail(request)
        resolve = f"/{self.repo}/resolve/{self.commit}/"
        if request.url.path.startswith(resolve):
            return self._file(request, request.url.path.removeprefix(resolve))
        if request.url.path == f"/api/models/{self.repo}/tree/{self.commit}":
            return httpx.Response(200, json=[self._entry(name) for name in self.files])
        if request.url.path == f"/api/models/{self.repo}/revision/{self.commit}":
            siblings = [{"rfilename": name} for name in self.files]
            body = {"id": self.repo, "sha": self.commit, "siblings": siblings}
            return httpx.Response(200, json=body)
        return httpx.Response(404, headers={"X-Error-Code": "RepoNotFound"})

    def _entry(self, name: str) -> dict[str, object]:
        content = self.files[name]
        blob = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": blob}

    def _file(self, request: httpx.Request, name: str) -> httpx.Response:
        if name not in self.files:
            return httpx.Response(404, headers={"X-Error-Code": "EntryNotFound"})
        content = self.files[name]
        headers = {
            "X-Repo-Commit": self.commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Content-Length": str(len(content)),
        }
        body = b"" if request.method == "HEAD" else content
        return httpx.Response(200, headers=headers, content=body)

"""Every error a user of alknet-firewall can cause.

The tree::

    FirewallError
    ├── ConfigError                 a configuration file or value is wrong
    ├── DataError                   a data file cannot be read as labelled texts
    ├── ModelError                  the detector model cannot be used
    │   ├── WeightsNotFoundError    the weights are in none of the known places
    │   ├── WeightsVerificationError  the bytes are not the pinned ones
    │   ├── UnsafeWeightsError      only pickled weights are on offer
    │   ├── UnsupportedModelError   the architecture is not known to the engine
    │   ├── CacheError              the cache cannot be written or read
    │   └── MissingExtraError       an optional dependency is not installed
    ├── CodebookError               the codebook cannot be used
    │   ├── CodebookFormatError     a file is missing or its content is invalid
    │   └── CodebookMismatchError   compiled for other weights or another engine
    ├── ScreeningError              a text could not be screened
    │   └── TextTooLongError        the text has more tokens than the configured cap
    └── ProxyError                  a request cannot be served
        ├── RequestError            the client sent something the proxy refuses
        └── UpstreamError           the upstream cannot be reached or took too long

A message is one sentence that says what is wrong, where, and what to do. It
never holds the text that was being screened.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "CacheError",
    "CodebookError",
    "CodebookFormatError",
    "CodebookMismatchError",
    "ConfigError",
    "DataError",
    "FirewallError",
    "MissingExtraError",
    "ModelError",
    "ProxyError",
    "RequestError",
    "ScreeningError",
    "TextTooLongError",
    "UnsafeWeightsError",
    "UnsupportedModelError",
    "UpstreamError",
    "WeightsNotFoundError",
    "WeightsVerificationError",
]


class FirewallError(Exception):
    """Base of every error raised by this package."""


class ConfigError(FirewallError):
    """A configuration file or value is wrong; the message names the key."""


class DataError(FirewallError):
    """A data file cannot be read; the message names the file and the line."""


class ModelError(FirewallError):
    """The detector model cannot be used."""


class WeightsNotFoundError(ModelError):
    """The weights are in none of the places they may come from."""


class WeightsVerificationError(ModelError):
    """A weights file does not have the sha256 it must have."""


class UnsafeWeightsError(ModelError):
    """The repository offers no safetensors; pickled weights are never opened."""


class UnsupportedModelError(ModelError):
    """The engine does not know this architecture."""


class CacheError(ModelError):
    """The cache directory cannot be written or read."""


class MissingExtraError(ModelError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is needed for this and is not installed: "
            f"pip install 'alknet-firewall[{extra}]'"
        )


class CodebookError(FirewallError):
    """The codebook cannot be used."""


class CodebookFormatError(CodebookError):
    """A codebook file is missing, or its content is not valid."""


class CodebookMismatchError(CodebookError):
    """The codebook was compiled for other weights or another engine."""


class ScreeningError(FirewallError):
    """A text could not be screened."""


class TextTooLongError(ScreeningError):
    """The text has more tokens than `max_tokens` allows."""

    def __init__(self, tokens: int, limit: int) -> None:
        self.tokens = tokens
        self.limit = limit
        super().__init__(
            f"the text has {tokens} tokens and the limit is {limit}: "
            "raise `max_tokens` under [firewall], or split the text"
        )


class ProxyError(FirewallError):
    """A request cannot be served.

    Each subclass carries what an OpenAI-shaped error needs: the HTTP status,
    the error `type`, its `code`, and the JSON path at fault as `param`.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class RequestError(ProxyError):
    """The client sent something the proxy refuses."""

    status = 400
    type = "invalid_request_error"

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.code = code
        self.type = type or self.type
        self.headers = dict(headers or {})


class UpstreamError(ProxyError):
    """The upstream cannot be reached (502) or took too long (504)."""

    type = "upstream_error"

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

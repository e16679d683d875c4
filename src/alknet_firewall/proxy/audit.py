"""The audit log: a JSON line for each verdict that is not CLEAR, appended to a file."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

from ..alarm import AlarmLevel
from ..errors import ConfigError
from .capture import captured
from .exchange import Exchange
from .options import AuditConfig, CaptureConfig
from .policy import Finding, Verdict

__all__ = ["AuditLog", "open_audit", "record"]

_log = logging.getLogger(__name__)

_MOST = 50
"""Findings in one line; the rest are counted."""


class AuditLog:
    """Appends to a file, which anybody may move away: each line opens it anew."""

    def __init__(self, path: str, capture: CaptureConfig) -> None:
        self._path = path
        self._capture = capture
        try:
            self._append(b"")
        except OSError as error:
            raise ConfigError(f"audit.path: {path} cannot be written ({error.strerror})") from error

    def write(self, exchange: Exchange, model: str | None, verdict: Verdict) -> None:
        """Append the record of a verdict, unless everything was clear."""
        if verdict.level is AlarmLevel.CLEAR and verdict.intended == "allow":
            return
        line = json.dumps(record(exchange, model, verdict, self._capture))
        try:
            self._append(f"{line}\n".encode())
        except OSError as error:
            _log.error("the audit log cannot be written (%s): %s", error.strerror, self._path)

    def _append(self, line: bytes) -> None:
        # One write a line, so that several workers do not mix theirs.
        file = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)


def open_audit(config: AuditConfig, capture: CaptureConfig) -> AuditLog | None:
    """The log that is configured, if one is. Raises `ConfigError` when it cannot be written."""
    return AuditLog(config.path, capture) if config.path else None


def record(
    exchange: Exchange, model: str | None, verdict: Verdict, capture: CaptureConfig
) -> dict[str, Any]:
    """What is written of a verdict. Without content, unless it is asked for."""
    alarming = [item for item in verdict.findings if item.alarm.level is not AlarmLevel.CLEAR]
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request": exchange.request_id,
        "route": exchange.route,
        "client": exchange.client,
        "model": model,
        "action": verdict.action,
        "would": verdict.intended,
        "level": verdict.level.name,
        "score": round(verdict.score, 4),
        "texts": len(verdict.findings),
        "not_screened": [item.kind for item in verdict.unscreened[:_MOST]],
        "alarming": len(alarming),
        "findings": [_finding(item, capture) for item in alarming[:_MOST]],
    }


def _finding(finding: Finding, capture: CaptureConfig) -> dict[str, Any]:
    alarm = finding.alarm
    content = captured(finding.text.text, capture) if capture.audit else None
    return {
        "path": finding.text.json_path,
        "role": finding.text.role,
        "level": alarm.level.name,
        "score": round(alarm.score, 4),
        "action": finding.decision.action,
        "mode": finding.decision.mode,
        "spans": [[span.start, span.end] for span in alarm.spans],
        **({} if content is None else {"content": content}),
    }

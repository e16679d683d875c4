"""Log lines with fields: `key=value` for people, JSON for machines. Never content."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from .policy import Verdict

__all__ = ["JsonFormatter", "configure_logging", "log_fields", "log_verdict"]


def log_fields(
    logger: logging.Logger, level: int, event: str, fields: Mapping[str, object]
) -> None:
    """Log an event with its fields, which must hold nothing of a request's content."""
    written = " ".join(f"{key}={value}" for key, value in fields.items())
    extra = {"alknet_event": event, "alknet_fields": dict(fields)}
    logger.log(level, "%s", written, extra=extra)


def log_verdict(logger: logging.Logger, verdict: Verdict, **more: object) -> None:
    """Log what was found worst and what is done about it; nothing if nothing was screened."""
    if (worst := verdict.worst) is None:
        return
    fields = {
        "action": verdict.action,
        "would": verdict.intended,
        "level": worst.alarm.level.name,
        "score": round(worst.alarm.score, 4),
        "role": worst.text.role,
        "path": worst.text.json_path,
        "texts": len(verdict.findings),
        **more,
    }
    log_fields(logger, logging.WARNING, "verdict", fields)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message or event, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": getattr(record, "alknet_event", None) or record.getMessage(),
            **getattr(record, "alknet_fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(style: Literal["text", "json"], level: str = "info") -> None:
    """Write the log of this process to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter()
        if style == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # A line for each request to the upstream, with its whole URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)

"""Log lines with fields: `key=value` for people, JSON for machines. Never content."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["JsonFormatter", "configure_logging", "log_fields"]


def log_fields(
    logger: logging.Logger, level: int, event: str, fields: Mapping[str, object]
) -> None:
    """Log an event with its fields, which must hold nothing of a request's content."""
    written = " ".join(f"{key}={value}" for key, value in fields.items())
    extra = {"alknet_event": event, "alknet_fields": dict(fields)}
    logger.log(level, "%s", written, extra=extra)


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

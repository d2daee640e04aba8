"""Logs and metrics: one JSON line per thing that happened, on stderr; Prometheus metrics on loopback.

Values under keys that name secrets are removed before a line is written. This module logs nothing itself.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import prometheus_client
import structlog

_SECRET_WORDS = ("key", "token", "secret", "password", "passphrase", "authorization", "cookie")
_REMOVED = "[removed]"


def redact(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove the values of keys that name secrets (``key_id`` and the like name none)."""
    del logger, method
    for name in event:
        low = name.lower()
        if any(word in low for word in _SECRET_WORDS) and not low.endswith(("_id", "_hash", "_count", "_path")):
            event[name] = _REMOVED
    return event


def configure(*, level: int = logging.INFO) -> None:
    """Set up logging for a process: JSON lines on stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def serve_metrics(port: int = 0) -> int:
    """Serve ``/metrics`` on loopback and return the port."""
    server, _ = prometheus_client.start_http_server(port, addr="127.0.0.1")
    return int(server.server_port)

"""Loggers whose records repeat foreign text as messages do: redacted, clipped, on one printable line."""

import logging
from typing import Any

from soundpiece_async._core.redaction import redact_text


class _Redacting(logging.Filter):
    """Converts every argument of a record but numbers to redacted text: it may contain foreign text."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.args = tuple(map(_redact, record.args or ()))
        return True


def _redact(value: Any) -> Any:
    return value if isinstance(value, int | float) else redact_text(str(value))


def get_logger(name: str) -> logging.Logger:
    """Return the logger ``soundpiece_async.<name>``; every logger of this package is made here."""
    logger = logging.getLogger(f"soundpiece_async.{name}")
    if not logger.filters:
        logger.addFilter(_Redacting())
    return logger

"""Times in the answers of servers, as whole seconds in ns since the epoch; pure.

HTTP dates have no fraction, listings of S3 do: both are cut to the second, so that an object has one mtime.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

_SECOND_NS = 1_000_000_000
_MONTHS = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1)  # noqa: SIM905
}


def datetime_ns(when: datetime) -> int:
    """Return *when* (UTC if it names no zone)."""
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()) * _SECOND_NS


def iso_date_ns(text: str) -> int:
    """Return an ISO 8601 date such as `2026-01-02T03:04:05.000Z`; ValueError if it is none."""
    return datetime_ns(datetime.fromisoformat(text))


def http_date_ns(text: str) -> int:
    """Return an HTTP date (IMF-fixdate, RFC 9110 §5.6.7) such as `Fri, 02 Jan 2026 03:04:05 GMT`; else ValueError."""
    try:
        _, day, month, year, clock, _ = text.split(" ")
        hour, minute, second = clock.split(":")
        parts = (int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second))
    except KeyError:
        raise ValueError(f"{text!r} is no HTTP date") from None
    return calendar.timegm(parts) * _SECOND_NS

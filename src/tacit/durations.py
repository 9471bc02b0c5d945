"""Times as people write them."""

from __future__ import annotations

import re

from tacit.errors import expect


def seconds(every: int | str, argument: str = "checkpoint_every") -> float | None:
    """Seconds in a time such as 30s, 3min or 1h; None for a number of steps.

    Raises:
        ArgumentError: neither, or not above 0; `argument` is what the message calls it.

    >>> seconds("3min"), seconds("1.5 h"), seconds(500)
    (180.0, 5400.0, None)
    """
    expected = "a time such as 30s, 3min or 1h, or a number of steps, at least 1"
    if isinstance(every, int):
        expect(argument, every, every >= 1, expected)
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|m|min|h)", every.strip())
    duration = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2][0]] if match else 0.0
    expect(argument, every, duration > 0, expected)
    return duration

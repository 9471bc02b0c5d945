"""Records of the method finder, for the Papers tab; there are none where it is not installed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

MOST = 100


def finder() -> Any:
    """`tacit.finding.find_systems`, or None."""
    try:
        from tacit.finding import find_systems
    except ImportError:
        return None
    return find_systems


def papers(query: str, filters: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the finder says of a query, as JSON can hold it; raises as the finder does."""
    find = finder()
    if find is None:
        return []
    return [_plain(record) for record in list(find(query, **{k: v for k, v in filters.items() if v}))[:MOST]]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)

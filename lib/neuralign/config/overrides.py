"""Overrides: what an entry of the config says for one dataset, network or regime."""

from collections.abc import Mapping
from typing import Any

PLACES = ("dataset", "network", "regime")  # what an override may depend on


def merge(raw: Any, place: Mapping[str, str]) -> Any:
    """`raw` without its overrides, those that fit `place` merged in, in their order."""
    if raw is None:
        return None
    merged = {k: v for k, v in raw.items() if k != "overrides"}
    for override in raw.get("overrides") or []:
        when = override.get("when") if isinstance(override, Mapping) else None
        if when and all(place.get(k) == v for k, v in when.items()):
            merged = _deep(merged, {k: v for k, v in override.items() if k != "when"})
    return merged


def _deep(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping) and "use" not in over:
        return {**base, **{k: _deep(base.get(k), v) for k, v in over.items()}}
    return over

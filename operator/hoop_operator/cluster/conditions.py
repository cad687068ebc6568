"""Conditions of an object's status, kept as the API conventions want them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from hoop_operator.crd.common import Condition


def condition(
    name: str, holds: bool | None, reason: str, message: str = "", *, generation: int, now: datetime
) -> Condition:
    """Say whether something holds, None where that is not known."""
    return Condition(
        type=name,
        status="Unknown" if holds is None else "True" if holds else "False",
        reason=reason,
        message=message,
        last_transition_time=now,
        observed_generation=generation,
    )


def merge_conditions(previous: Sequence[Mapping[str, Any]], new: Sequence[Condition]) -> list[dict[str, Any]]:
    """Return the conditions to write, given those that the object has and those that hold now.

    A condition whose status has not changed keeps its `lastTransitionTime`, one that `new` does not speak of
    stays as it is, and the order is kept: what says the same compares equal to `previous`.

    Source: Kubernetes API conventions, "Typical status properties".
    """
    merged = {condition["type"]: dict(condition) for condition in previous}
    for entry in new:
        current = entry.model_dump(mode="json", by_alias=True, exclude_none=True)
        before = merged.get(entry.type)
        if before is not None and before["status"] == entry.status:
            current["lastTransitionTime"] = before["lastTransitionTime"]
        merged[entry.type] = current
    return list(merged.values())


def said(conditions: Sequence[Mapping[str, Any]]) -> set[tuple[str, str, str, str]]:
    """Return what conditions say, apart from since when and for which generation."""
    return {
        (entry["type"], entry["status"], entry["reason"], entry.get("message", "")) for entry in conditions
    }

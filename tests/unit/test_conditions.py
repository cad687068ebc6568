from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.cluster.conditions import merge_conditions
from hoop_operator.crd.common import Condition

EARLIER = "2026-01-01T00:00:00Z"
NOW = datetime(2026, 2, 2, 12, 30, 15, tzinfo=UTC)
NOW_TEXT = "2026-02-02T12:30:15Z"


def stored(**changes: Any) -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": "False",
        "reason": "ResourceNotReady",
        "message": "HoopResource pg is not ready",
        "lastTransitionTime": EARLIER,
        "observedGeneration": 1,
    } | changes


def observed(**changes: Any) -> Condition:
    fields = {
        "type": "Ready",
        "status": "False",
        "reason": "ResourceNotReady",
        "message": "HoopResource pg is not ready",
        "last_transition_time": NOW,
        "observed_generation": 1,
    }
    return Condition.model_validate(fields | changes)


conditions = st.builds(
    observed,
    type=st.sampled_from(["Ready", "Planned", "Applied", "SecretReady"]),
    status=st.sampled_from(["True", "False", "Unknown"]),
    reason=st.sampled_from(["Applied", "ApplyFailed", "InvalidSpec"]),
    message=st.text(max_size=20),
    last_transition_time=st.integers(0, 10**6).map(lambda seconds: NOW - timedelta(seconds=seconds)),
    observed_generation=st.none() | st.integers(1, 9),
)
sets_of_conditions = st.lists(conditions, max_size=4, unique_by=lambda condition: condition.type)


def test_first_condition_is_written_as_the_api_spells_it() -> None:
    assert merge_conditions([], [observed()]) == [stored(lastTransitionTime=NOW_TEXT)]


def test_transition_time_stays_when_only_reason_message_and_generation_change() -> None:
    new = observed(reason="ApplyFailed", message="lock timeout", observed_generation=2)

    assert merge_conditions([stored()], [new]) == [
        stored(reason="ApplyFailed", message="lock timeout", observedGeneration=2)
    ]


def test_transition_time_moves_when_the_status_changes() -> None:
    merged = merge_conditions([stored()], [observed(status="True", reason="Applied", message="")])

    assert merged == [stored(status="True", reason="Applied", message="", lastTransitionTime=NOW_TEXT)]


def test_conditions_nobody_spoke_of_stay_in_their_place() -> None:
    previous = [stored(type="Planned"), stored(), stored(type="InSync")]

    merged = merge_conditions(previous, [observed(type="Applied"), observed(status="True")])

    assert [condition["type"] for condition in merged] == ["Planned", "Ready", "InSync", "Applied"]
    assert merged[0] == previous[0]
    assert merged[2] == previous[2]


def test_conditions_of_the_object_are_not_changed_in_place() -> None:
    previous = [stored()]

    merge_conditions(previous, [observed(status="True")])

    assert previous == [stored()]


@given(first=sets_of_conditions, second=sets_of_conditions)
def test_what_says_the_same_again_compares_equal(first: list[Condition], second: list[Condition]) -> None:
    merged = merge_conditions(merge_conditions([], first), second)

    later = [condition.model_copy(update={"last_transition_time": NOW}) for condition in second]

    assert merge_conditions(merged, later) == merged


@given(first=sets_of_conditions, second=sets_of_conditions)
def test_each_type_occurs_once_with_the_latest_status(
    first: list[Condition], second: list[Condition]
) -> None:
    merged = merge_conditions(merge_conditions([], first), second)

    expected = {condition.type: condition.status for condition in [*first, *second]}
    assert [(condition["type"], condition["status"]) for condition in merged] == list(expected.items())

"""When a password is due: the law of the interval, what the Secret answers, and one timer for all plans."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hoop_operator.reconcile.clock import Clock
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.rotation import (
    RECORD,
    UNKNOWN,
    Cause,
    Record,
    Schedule,
    due_time,
    interval_of,
    next_due,
    password_since,
    read_record,
    record_of_new_password,
    rotation_due,
)

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)

moments = st.integers(0, 7 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
intervals = st.integers(60, 100 * 365 * 24 * 3600).map(lambda seconds: timedelta(seconds=seconds))


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def plan(
    since: datetime | None = None,
    *,
    name: str = "ro",
    generation: int = 1,
    rotate_at: str | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> Plan:
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "generation": generation,
        "resourceVersion": "7",
        "annotations": {"hoop.dev/rotate-at": rotate_at} if rotate_at else {},
    }
    told = {"lastRotationTime": text(since)} if since is not None else {}
    asked = {"resourceRef": {"name": "pg"}, "type": "external", "role": "ro", "sourceRole": "r", **spec}
    return Plan.parse({"metadata": metadata, "spec": asked, "status": told | (status or {})})


@given(uid=st.text(), since=moments, interval=intervals)
def test_a_password_is_due_before_it_is_as_old_as_the_interval_and_after_nine_tenths_of_it(
    uid: str, since: datetime, interval: timedelta
) -> None:
    age = due_time(uid, since, interval) - since
    assert interval - interval / 10 <= age <= interval


@given(since=moments, hours=st.integers(1, 10_000), late=st.timedeltas(timedelta(0), timedelta(days=3650)))
def test_whoever_looks_finds_the_same_moment_and_one_rotation_catches_up(
    since: datetime, hours: int, late: timedelta
) -> None:
    asked = plan(since, rotationInterval=f"{hours}h")
    restarted = plan(since, rotationInterval=f"{hours * 60}m")
    due = next_due(asked, since)
    assert due is not None
    assert due == next_due(restarted, since)
    assert rotation_due(asked, UNKNOWN, due - timedelta(seconds=1)) is None
    assert rotation_due(asked, UNKNOWN, due + late) is Cause.SCHEDULE
    made = record_of_new_password(asked, due + late)
    assert rotation_due(asked, made, due + late) is None
    settled = plan(made.since, rotationInterval=f"{hours}h")
    assert rotation_due(settled, made, due + late) is None
    following = next_due(settled, made.since)
    assert following is not None
    assert rotation_due(settled, made, following) is Cause.SCHEDULE


def test_passwords_of_one_age_are_due_at_different_times_and_those_of_one_moment_together() -> None:
    hours = [due_time(f"uid-{number}", NOW, timedelta(hours=720)) for number in range(100)]
    assert len(set(hours)) > 90
    minutes = [due_time(f"uid-{number}", NOW, timedelta(minutes=2)) for number in range(100)]
    assert len(set(minutes)) <= 4


@pytest.mark.parametrize(
    ("asked", "length"),
    [
        ("720h", timedelta(days=30)),
        ("1h30m", timedelta(minutes=90)),
        ("60s", timedelta(minutes=1)),
        (None, None),
    ],
)
def test_an_interval_is_a_duration_as_kubernetes_writes_it(
    asked: str | None, length: timedelta | None
) -> None:
    assert interval_of(plan(rotationInterval=asked)) == length


@pytest.mark.parametrize("asked", ["59s", "", "30d", "-1h", "1h ", "1.5h", "h", "\u0661h"])
def test_what_is_no_interval_is_refused_and_never_due(asked: str) -> None:
    with pytest.raises(ValueError, match="such as 720h"):
        interval_of(plan(rotationInterval=asked))
    assert next_due(plan(NOW, rotationInterval=asked), NOW) is None


def test_a_changed_interval_counts_at_once() -> None:
    assert rotation_due(plan(NOW - DAY, rotationInterval="720h"), UNKNOWN, NOW) is None
    assert rotation_due(plan(NOW - DAY, rotationInterval="24h"), UNKNOWN, NOW) is Cause.SCHEDULE
    assert rotation_due(plan(NOW - DAY), UNKNOWN, NOW) is None


def test_a_password_of_unknown_age_is_rotated_once_on_schedule() -> None:
    assert rotation_due(plan(rotationInterval="24h"), UNKNOWN, NOW) is Cause.SCHEDULE
    assert rotation_due(plan(), UNKNOWN, NOW) is None


REQUESTS: list[dict[str, Any]] = [
    {"rotate_at": "monday"},
    {"rotatePassword": True},
    {"rotationInterval": "24h"},
    {"rotate_at": "monday", "rotatePassword": True, "rotationInterval": "24h"},
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_that_the_password_of_the_secret_answers_is_not_made_again_although_the_status_does_not_say_so(
    request_: dict[str, Any],
) -> None:
    asked = plan(NOW - 9 * DAY, **request_)
    assert rotation_due(asked, UNKNOWN, NOW) is not None
    made = read_record(record_of_new_password(asked, NOW).annotations)
    assert rotation_due(asked, made, NOW) is None
    assert password_since(asked, made, NOW + DAY) == NOW
    lost = plan(**request_)
    assert rotation_due(lost, made, NOW) is None
    assert password_since(lost, made, NOW + DAY) == NOW


def test_a_request_made_later_than_the_password_is_not_answered_by_it() -> None:
    made = record_of_new_password(plan(rotate_at="monday", rotatePassword=True), NOW)
    assert rotation_due(plan(NOW, rotate_at="tuesday"), made, NOW) is Cause.ANNOTATION
    assert rotation_due(plan(NOW, generation=2, rotatePassword=True), made, NOW) is Cause.SPEC
    assert rotation_due(plan(NOW, name="other", rotatePassword=True), made, NOW) is Cause.SPEC
    assert rotation_due(plan(NOW - DAY, rotationInterval="24h"), made, NOW) is Cause.SCHEDULE


@pytest.mark.parametrize("future", [NOW + timedelta(seconds=2), datetime(9999, 12, 31, tzinfo=UTC)])
def test_a_time_to_come_is_believed_to_be_now_and_never_once_the_status_has_its_own(future: datetime) -> None:
    forged = Record(since=future)
    assert password_since(plan(), forged, NOW) == NOW
    assert password_since(plan(NOW - DAY), forged, NOW) == NOW - DAY
    assert password_since(plan(future), UNKNOWN, NOW) == NOW
    assert rotation_due(plan(NOW - DAY, rotationInterval="24h"), forged, NOW) is Cause.SCHEDULE


@given(said=st.text() | st.from_regex(r'\{"(since|plan|generation|rotateAt|replaces)":.{0,30}\}'))
@example("[" * 100_000)
@example('{"since":"0001-01-01T00:00:00+14:00"}')
@example('{"since":"0001-01-01T00:00:00Z"}')
@example('{"since":"9999-12-31T23:59:59-14:00"}')
@example('{"since":1e308}')
@example('{"generation":' + "9" * 4000 + "}")
def test_whatever_is_written_on_a_secret_is_tolerated_and_settles(said: str) -> None:
    record = read_record({RECORD: said})
    assert read_record(record.annotations) == record
    for asked in (plan(rotationInterval="24h"), plan(NOW - DAY, rotationInterval="24h", rotatePassword=True)):
        rotation_due(asked, record, NOW)
        since = password_since(asked, record, NOW)
        assert since is None or since <= NOW


class Timers(Clock):
    """A clock whose one timer the test rings."""

    def __init__(self) -> None:
        super().__init__(30.0)
        self.rings: dict[Any, tuple[float, Any]] = {}

    def after(self, name: Any, seconds: float, action: Any) -> None:
        self.rings[name] = (seconds, action)


def test_all_plans_share_one_timer_and_each_is_woken_once_when_it_is_due() -> None:
    clock = Timers()
    now = NOW
    woken: list[str] = []
    schedule = Schedule(clock, lambda: now, lambda key: woken.append(key.name))
    plans = [plan(NOW, name=f"plan-{number}", rotationInterval="720h") for number in range(50)]
    for asked in plans:
        schedule.note(asked)
        schedule.note(asked)
    schedule.note(plan(NOW, name="suspended", rotationInterval="1m", suspend=True))
    schedule.note(plan(name="unknown", rotationInterval="1m"))
    schedule.note(plan(NOW, name="without"))
    schedule.note(plan(NOW, name="gone", rotationInterval="2m"))
    schedule.forget(plan(name="gone").key)
    while clock.rings:
        ((seconds, ring),) = clock.rings.values()
        assert not woken or seconds > 0
        clock.rings.clear()
        now += timedelta(seconds=seconds)
        ring()
    assert now <= NOW + 30 * DAY
    assert sorted(woken) == sorted(asked.key.name for asked in plans)


def test_what_is_due_already_rings_at_once_for_all_and_a_new_due_time_replaces_the_former() -> None:
    clock = Timers()
    woken: list[str] = []
    schedule = Schedule(clock, lambda: NOW, lambda key: woken.append(key.name))
    for number in range(3):
        schedule.note(plan(NOW - 90 * DAY, name=f"plan-{number}", rotationInterval="720h"))
    schedule.note(plan(NOW, name="plan-2", rotationInterval="720h"))
    ((seconds, ring),) = clock.rings.values()
    assert seconds == 0
    ring()
    assert woken == ["plan-0", "plan-1"]

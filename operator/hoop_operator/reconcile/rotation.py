"""Rotation of passwords: whether one is due and why, what the Secret says of it, and when the next one will be.

The status says which requests were answered, but it is written last. What a rotation answers is therefore written on
the Secret too, together with the password: whatever ends in between, no request is answered by two passwords.
"""

import hashlib
import heapq
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ValidationError

from hoop_operator.crd.common import KubernetesModel, Timestamp
from hoop_operator.naming import ROTATE_AT
from hoop_operator.reconcile.clock import Clock
from hoop_operator.reconcile.objects import Key, Plan

RECORD = "hoop.dev/rotation"
"""The annotation of a plan's Secret that says since when it has its password, and which requests that answers."""

TRIGGER = "rotation"
"""What woke a plan whose password is due."""

INTERVAL = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
SHORTEST = timedelta(minutes=1)
JITTER = 10
"""A password is rotated up to this part of the interval before it is as old as that."""

GRID_SECONDS = 5
"""Rotations are due on a grid of this width, so that those of one moment are made together."""


class Cause(StrEnum):
    """Why a password is rotated, as the event says it."""

    ANNOTATION = f"asked for by the annotation {ROTATE_AT}"
    SPEC = "asked for by spec.rotatePassword"
    SCHEDULE = "due by spec.rotationInterval"


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise ValueError("not a time that has a place in UTC") from None


Moment = Annotated[Timestamp, AfterValidator(_in_utc)]


class Record(KubernetesModel):
    """What a Secret says of its password.

    Whoever may edit the Secret may edit this: it decides about a rotation more or less of this one plan.
    """

    since: Moment | None = None
    """When the password was made."""

    replaces: Moment | None = None
    """The `status.lastRotationTime` of the plan at that time: of the password before, with which the status is."""

    plan: str | None = None
    """The uid of the plan, whose generations are meant."""

    generation: int | None = None
    """The generation whose `spec.rotatePassword` it answers."""

    rotate_at: str | None = None
    """SHA-256 of the value of `hoop.dev/rotate-at` that it answers, in hexadecimal."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """The record as annotations of the Secret."""
        said = self.model_dump_json(by_alias=True, exclude_none=True)
        return {RECORD: said} if self != UNKNOWN else {}


UNKNOWN = Record()


def read_record(annotations: Mapping[str, str]) -> Record:
    """What a Secret's annotations say of its password; nothing where that cannot be read."""
    try:
        return Record.model_validate_json(annotations.get(RECORD, "{}"))
    except ValidationError:
        return UNKNOWN


def record_of_new_password(plan: Plan, now: datetime) -> Record:
    """What is to be said of a password that is made now: it answers all that the plan asks for."""
    value = plan.annotations.get(ROTATE_AT)
    return Record(
        since=now,
        replaces=_told(plan),
        plan=plan.uid,
        generation=plan.generation if plan.spec.rotate_password else None,
        rotate_at=_digest(value) if value else None,
    )


def password_since(plan: Plan, record: Record, now: datetime) -> datetime | None:
    """Since when a plan has its password, None where nobody knows.

    The status counts, unless it was lost, or speaks of the password that the Secret's replaced.
    """
    told = _told(plan)
    if record.since is None or (told is not None and record.replaces != told):
        return min(told, _in_utc(now)) if told is not None else None
    return min(record.since, _in_utc(now))


def is_untold(plan: Plan, since: datetime | None) -> bool:
    """Whether the status does not say since when the plan has its password."""
    return since is not None and since != _told(plan)


def rotation_due(plan: Plan, record: Record, now: datetime) -> Cause | None:
    """Whether a password is to be rotated, and why.

    Parameters
    ----------
    plan
        The plan, whose role exists.
    record
        What its Secret says of the password.
    now
        The time of the run.
    """
    value = plan.annotations.get(ROTATE_AT)
    if value and value != plan.status.get("observedRotateAt") and _digest(value) != record.rotate_at:
        return Cause.ANNOTATION
    if (
        plan.spec.rotate_password
        and plan.status.get("rotatedGeneration") != plan.generation
        and (record.plan, record.generation) != (plan.uid, plan.generation)
    ):
        return Cause.SPEC
    interval = interval_of(plan)
    if interval is None:
        return None
    since = password_since(plan, record, now)
    return Cause.SCHEDULE if since is None or now >= due_time(plan.uid, since, interval) else None


def due_time(uid: str, since: datetime, interval: timedelta) -> datetime:
    """When a password is due that a plan has since a moment: the same whoever computes it, on a grid as far as may be.

    It is never older than the interval then, and never younger than nine tenths of it.
    """
    digest = hashlib.sha256(f"{uid} {since.timestamp():.0f}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    earliest = since + interval - interval / JITTER
    exact = since + interval - interval / JITTER * share
    on_grid = exact - timedelta(seconds=exact.timestamp() % GRID_SECONDS)
    return max(on_grid, earliest)


def next_due(plan: Plan, since: datetime | None) -> datetime | None:
    """When the password that a plan has since a moment is due; None where no schedule says so."""
    if since is None or plan.deleting or plan.spec.suspend:
        return None
    try:
        interval = interval_of(plan)
    except ValueError:
        return None
    return due_time(plan.uid, since, interval) if interval is not None else None


def interval_of(plan: Plan) -> timedelta | None:
    """`spec.rotationInterval`; None where there is none.

    Raises
    ------
    ValueError
        It is no duration, or too short a one.
    """
    text = plan.spec.rotation_interval
    if text is None:
        return None
    match = INTERVAL.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    interval = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if interval < SHORTEST:
        raise ValueError(f"{text!r} is no duration of at least 1m, such as 720h or 1h30m")
    return interval


class Schedule:
    """When the passwords of all plans are due: one timer, for the first of them."""

    def __init__(self, clock: Clock, now: Callable[[], datetime], wake: Callable[[Key], None]) -> None:
        self._clock = clock
        self._now = now
        self._wake = wake
        self._due: dict[Key, datetime] = {}
        self._waiting: list[tuple[datetime, Key]] = []

    def note(self, plan: Plan) -> None:
        """Have a plan woken when its status and spec say that its password is due, once for each such time.

        What cannot be done then is tried again like everything that fails.
        """
        told = _told(plan)
        due = next_due(plan, min(told, _in_utc(self._now())) if told is not None else None)
        if due is None:
            self.forget(plan.key)
        elif self._due.get(plan.key) != due:
            self._due[plan.key] = due
            heapq.heappush(self._waiting, (due, plan.key))
            if len(self._waiting) > 2 * len(self._due):
                self._waiting = sorted((due, key) for due, key in self._waiting if self._due.get(key) == due)
            self._set_timer()

    def forget(self, key: Key) -> None:
        """Let a plan not be woken."""
        self._due.pop(key, None)

    def _ring(self) -> None:
        now = self._now()
        while self._waiting and self._waiting[0][0] <= now:
            due, key = heapq.heappop(self._waiting)
            if self._due.get(key) == due:
                self._wake(key)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._waiting:
            pause = (self._waiting[0][0] - self._now()).total_seconds()
            self._clock.after(TRIGGER, max(pause, 0.0), self._ring)


def _told(plan: Plan) -> datetime | None:
    """`status.lastRotationTime`."""
    text = plan.status.get("lastRotationTime")
    return _in_utc(datetime.fromisoformat(text)) if text else None


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()

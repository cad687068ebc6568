"""A stand-in for PostgreSQL: a few catalogs, their rows under transactions and locks, and the planner's statements.

What it imitates is written in the manual: "Transaction Isolation" (a look that does not write sees one snapshot, a
statement that writes sees what was committed last), "Explicit Locking" (deadlocks, lock_timeout), GRANT, REVOKE, ALTER
DEFAULT PRIVILEGES, CREATE, ALTER and DROP ROLE, COMMENT. What happens when two transactions change the same row of a
catalog is in the source: `simple_heap_update` ("tuple concurrently updated"), `shdepLockAndCheckObject` (a grant locks
its grantee against being dropped), `get_object_address` (COMMENT waits for another one on the same role), `DropRole`.
`tests/integration/test_stand_ins.py` holds it against a real server.

The admin is a superuser, and all grants are the owners': more than that is for tests of the planner.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

from exploration.schedule import LIFE, Schedule
from hoop_operator.errors import NoLongerLeading, ServerUnreachable, StatementFailed
from hoop_operator.planner.model import (
    DatabaseObject,
    ObjectKind,
)
from hoop_operator.postgres import scram

LOCK_SECONDS = 5.0
SESSIONS = 4
VERSION = 180000
ADMIN = "postgres"
OWNER = "app"
DATABASE = "shop"
OTHER_SCHEMA = "extra"
CONCURRENTLY_UPDATED = "XX000"
UNIQUE_VIOLATION = "23505"
IN_SCHEMAS = {"TABLES": ObjectKind.TABLE, "SEQUENCES": ObjectKind.SEQUENCE, "ROUTINES": ObjectKind.ROUTINE}

Row = tuple[str, ...]
"""A catalog and the key of one row in it: `("role", name)`, `("comment", oid)`, `("acl", kind, database, schema, name)`
or `("default", database, owner, schema, objects)`."""


class Mode(IntEnum):
    """Modes of a lock; each is held until the end of the transaction."""

    SHARE = 1
    """AccessShareLock on a role: a grant that names it."""
    UPDATE = 2
    """ShareUpdateExclusiveLock on a role: a comment."""
    EXCLUSIVE = 3
    """AccessExclusiveLock on a role, or a changed row."""

    def conflicts(self, other: "Mode") -> bool:
        """Whether two transactions may not hold both."""
        return Mode.EXCLUSIVE in (self, other) or self == other == Mode.UPDATE


@dataclass(frozen=True)
class RoleRow:
    """A row of pg_authid."""

    oid: int
    login: bool = True
    inherit: bool = True
    superuser: bool = False
    createdb: bool = False
    createrole: bool = False
    replication: bool = False
    bypassrls: bool = False
    connection_limit: int = -1
    expires: bool = False
    verifier: str | None = None


class Grant(NamedTuple):
    """One entry of an ACL, given by the object's owner."""

    grantee: int
    privilege: str
    grantable: bool = False


class Change(NamedTuple):
    """One row as a transaction left it behind."""

    row: Row
    before: Any
    after: Any


class PostgreSQL:
    """One server, with one database that anything can be granted in."""

    def __init__(self) -> None:
        self.rows: dict[Row, Any] = {}
        self.objects: dict[Row, DatabaseObject] = {}
        self.versions: dict[Row, int] = {}
        """The transaction that wrote each row last (`xmin`), be it with what it held already."""
        self.transactions = itertools.count(1)
        self.open: list[Transaction] = []
        self.watchers: list[Callable[[str, list[Change]], None]] = []
        """Told of every commit: whose it is and what it changed."""
        self.written: list[str] = []
        """All statements of transactions that write."""
        self._oids = iter(range(16384, 1 << 30))
        for name in (ADMIN, OWNER):
            self.rows["role", name] = RoleRow(next(self._oids), superuser=name == ADMIN)
        for kind, database, schema, name in (
            (ObjectKind.DATABASE, "", "", ADMIN),
            (ObjectKind.DATABASE, "", "", DATABASE),
            *((ObjectKind.SCHEMA, DATABASE, "", schema) for schema in ("public", OTHER_SCHEMA)),
            *((ObjectKind.TABLE, DATABASE, schema, "orders") for schema in ("public", OTHER_SCHEMA)),
            (ObjectKind.SEQUENCE, DATABASE, "public", "orders_id_seq"),
        ):
            row = ("acl", kind.value, database, schema, name)
            self.rows[row] = frozenset[Grant]()
            owner = ADMIN if kind is ObjectKind.DATABASE else OWNER
            self.objects[row] = DatabaseObject(next(self._oids), kind, schema or None, name, owner)

    def new_oid(self) -> int:
        """An OID that nothing has had before."""
        return next(self._oids)

    def end(self, transaction: "Transaction", *, commit: bool) -> None:
        """End a transaction and let those go on that wait for it."""
        self.open.remove(transaction)
        changes = [
            Change(row, self.rows.get(row), value)
            for row, value in transaction.writes.items()
            if commit and self.rows.get(row) != value
        ]
        if commit:
            self.versions |= dict.fromkeys(transaction.writes, transaction.number)
        for row, _, after in changes:
            self.rows[row] = after
            if after is None:
                del self.rows[row]
        if changes:
            for watcher in self.watchers:
                watcher(transaction.who, changes)
        for waiting in transaction.awaited_by:
            if not waiting.done():
                waiting.set_result(None)

    def role_of(self, comment: str) -> list[str]:
        """The names of the roles that carry a comment."""
        return [
            row[1]
            for row, value in self.rows.items()
            if row[0] == "role" and self.comment(value.oid) == comment
        ]

    def comment(self, oid: int) -> str | None:
        """The comment on a role."""
        found: str | None = self.rows.get(("comment", str(oid)))
        return found

    def grants_of(self, oid: int) -> set[tuple[str, ...]]:
        """All that a role was granted, default privileges included: row, privilege and `*` for a grant option."""
        return {
            (*row, grant.privilege, "*" if grant.grantable else "")
            for row, grants in self.rows.items()
            if row[0] in {"acl", "default"}
            for grant in grants
            if grant.grantee == oid
        }


class Transaction:
    """One transaction, as `hoop_operator.postgres.session.Transaction`."""

    def __init__(self, server: PostgreSQL, schedule: Schedule, database: str, *, write: bool) -> None:
        life = LIFE.get()
        self.who = life.name if life is not None else "somebody"
        self.number = next(server.transactions)
        self.server = server
        self.database = database
        self.writes: dict[Row, Any] = {}
        self.locks: dict[Row, Mode] = {}
        self.awaited_by: list[asyncio.Future[None]] = []
        self.waits_for: list[Transaction] = []
        self._schedule = schedule
        self._write = write
        self._snapshot: dict[Row, Any] | None = None
        server.open.append(self)

    async def execute(self, text: str) -> None:
        """Run statements; what is not one of the planner's fails loudly."""
        assert self._write, f"a transaction that only reads is to run: {text}"
        await self.gate(text)
        for statement in text.split("; "):
            self.server.written.append(statement)
            for pattern, run in STATEMENTS:
                if match := pattern.fullmatch(statement):
                    await run(self, match)
                    break
            else:
                raise AssertionError(f"the stand-in does not know this statement: {statement}")

    def make_verifier(self, user: str, password: str) -> str:
        """As the client's library does."""
        del user
        return scram.make_verifier(password)

    async def gate(self, what: str) -> None:
        """Be on the way to the server."""
        self._check()
        await self._schedule.gate(f"SQL {what}", lambda: ServerUnreachable("the connection was lost"))
        self._check()

    def look(self) -> Mapping[Row, Any]:
        """Everything as it was committed when this transaction looked first."""
        if self._snapshot is None:
            self._snapshot = dict(self.server.rows)
        return self._snapshot

    def get(self, row: Row) -> Any:
        """A row as a statement of this transaction sees it now."""
        return self.writes[row] if row in self.writes else self.server.rows.get(row)

    def version_of(self, role: RoleRow, *, own: bool) -> str:
        """The version of a role's comment, as this transaction left it or as it is committed (`ROLE_VERSION`)."""
        row: Row = ("comment", str(role.oid))
        if own and row in self.writes:
            return f"{role.oid}/{self.number if self.writes[row] is not None else ''}"
        return f"{role.oid}/{self.server.versions[row] if row in self.server.rows else ''}"

    def all_rows(self) -> dict[Row, Any]:
        """All rows as a statement of this transaction sees them now."""
        return {row: value for row, value in {**self.server.rows, **self.writes}.items() if value is not None}

    def role(self, name: str) -> RoleRow:
        """A role that exists."""
        found: RoleRow | None = self.get(("role", name))
        if found is None:
            raise StatementFailed(f'role "{name}" does not exist', sqlstate="42704")
        return found

    async def change(self, row: Row, value: Any) -> None:
        """Change a row once nobody else is changing it; who has to wait for another's change comes too late."""
        there, version = self.get(row) is not None, self.server.versions.get(row)
        await self.lock(row, Mode.EXCLUSIVE)
        if self.server.versions.get(row) != version:
            raise StatementFailed(
                "tuple concurrently updated", sqlstate=CONCURRENTLY_UPDATED if there else UNIQUE_VIOLATION
            )
        self.writes[row] = value

    async def lock(self, row: Row, mode: Mode) -> None:
        """Take a lock when it is to be had, within the time there is for that."""
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                while blockers := [
                    other
                    for other in self.server.open
                    if other is not self and row in other.locks and mode.conflicts(other.locks[row])
                ]:
                    await self._wait(blockers)
        except TimeoutError:
            raise StatementFailed("canceling statement due to lock timeout", sqlstate="55P03") from None
        finally:
            self.waits_for = []
        self.locks[row] = max(mode, self.locks.get(row, mode))

    async def _wait(self, blockers: list["Transaction"]) -> None:
        self.waits_for = blockers
        reached: list[Transaction] = []
        pending = list(blockers)
        while pending:
            other = pending.pop()
            if other not in reached:
                reached.append(other)
                pending += other.waits_for
        if self in reached:
            raise StatementFailed("deadlock detected", sqlstate="40P01")
        ended = asyncio.get_running_loop().create_future()
        for other in blockers:
            other.awaited_by.append(ended)
        await ended
        self._check()

    def _check(self) -> None:
        if self not in self.server.open:
            raise asyncio.CancelledError  # its session is gone, and whoever used it


async def _create_role(transaction: Transaction, match: re.Match[str]) -> None:
    name, verifier = match.groups()
    if transaction.get(("role", name)) is not None:
        raise StatementFailed(f'role "{name}" already exists', sqlstate="42710")
    assert verifier is None or scram.VERIFIER.fullmatch(verifier), "only a verifier may be sent"
    oid = transaction.server.new_oid()
    await transaction.change(("role", name), RoleRow(oid, login=verifier is not None, verifier=verifier))
    transaction.locks["object", str(oid)] = Mode.EXCLUSIVE


async def _alter_role(transaction: Transaction, match: re.Match[str]) -> None:
    name, options, verifier = match.groups()
    role = transaction.role(name)
    if verifier is not None:
        assert scram.VERIFIER.fullmatch(verifier), "only a verifier may be sent"
        role = replace(role, verifier=verifier)
    for option in re.findall(r"CONNECTION LIMIT -1|VALID UNTIL 'infinity'|\w+", options or ""):
        if option.startswith("CONNECTION"):
            role = replace(role, connection_limit=-1)
        elif option.startswith("VALID"):
            role = replace(role, expires=False)
        else:
            changed: dict[str, Any] = {option.removeprefix("NO").lower(): not option.startswith("NO")}
            role = replace(role, **changed)
    await transaction.change(("role", name), role)


async def _comment(transaction: Transaction, match: re.Match[str]) -> None:
    name, text = match.groups()
    role = transaction.role(name)
    while True:
        await transaction.lock(("object", str(role.oid)), Mode.UPDATE)
        found = transaction.role(name)
        if found.oid == role.oid:
            break
        role = found
    await transaction.change(("comment", str(role.oid)), text and text.replace("''", "'"))


async def _drop_role(transaction: Transaction, match: re.Match[str]) -> None:
    for name in _names(match[1]):
        role = transaction.role(name)
        await transaction.lock(("object", str(role.oid)), Mode.EXCLUSIVE)
        if transaction.get(("role", name)) is None:
            raise StatementFailed("tuple concurrently deleted", sqlstate="XX000")
        for row, grants in transaction.all_rows().items():
            if row[0] in {"acl", "default"} and any(grant.grantee == role.oid for grant in grants):
                raise StatementFailed(f'role "{name}" cannot be dropped', sqlstate="2BP01", detail=str(row))
        await transaction.change(("role", name), None)
        await transaction.change(("comment", str(role.oid)), None)


async def _grant_or_revoke(transaction: Transaction, match: re.Match[str]) -> None:
    owner, schema, verb, option, privileges, targets, grantees = match.groups()
    oids = [transaction.role(name).oid for name in _names(grantees)]
    rows: list[Row] = []
    if owner is not None:
        rows = [("default", transaction.database, owner, schema, targets)]
    else:
        rows = list(_rows(transaction, targets))
    for row in rows:
        before: frozenset[Grant] = transaction.get(row) or frozenset()
        named = {Grant(oid, name) for oid in oids for name in privileges.split(", ")}
        optional = {grant._replace(grantable=True) for grant in named}
        if verb == "GRANT":
            after = before | {grant for grant in named if grant._replace(grantable=True) not in before}
        elif option:
            after = before - optional | {grant._replace(grantable=False) for grant in before & optional}
        else:
            after = before - named - optional
        # The row first, then what depends on it (source, ExecGrant_Relation).
        await transaction.change(row, after or (frozenset() if owner is None else None))
        for oid in sorted({grant.grantee for grant in after} - {grant.grantee for grant in before}):
            await transaction.lock(("object", str(oid)), Mode.SHARE)
            if not any(
                row[0] == "role" and value.oid == oid for row, value in transaction.all_rows().items()
            ):
                raise StatementFailed(f"role {oid} was concurrently dropped", sqlstate="42704")


def _rows(transaction: Transaction, targets: str) -> Iterable[Row]:
    if whole := re.fullmatch(r'ALL (\w+) IN SCHEMA "(\w+)"', targets):
        kind = IN_SCHEMAS[whole[1]]
        for row in transaction.server.objects:
            if row[1:4] == (kind.value, transaction.database, whole[2]):
                yield row
        return
    kind_name, _, names = targets.partition(" ")
    for name in names.split(", "):
        parts = re.findall(r'"(\w+)"', name)
        schema = parts[0] if len(parts) == 2 else ""
        database = "" if kind_name == "DATABASE" else transaction.database
        row = ("acl", kind_name, database, schema, parts[-1])
        assert row in transaction.server.objects, f"{row} is not in the stand-in's catalogs"
        yield row


def _names(text: str) -> list[str]:
    return re.findall(r'"(\w+)"', text)


NAME = r'"(\w+)"'
NAMES = r'("\w+"(?:, "\w+")*)'
TEXT = r"'((?:[^']|'')*)'"
ATTRIBUTE = "SUPERUSER|CREATEDB|CREATEROLE|REPLICATION|BYPASSRLS|INHERIT|LOGIN"
OPTION = rf"(?:NO)?(?:{ATTRIBUTE})|CONNECTION LIMIT -1|VALID UNTIL 'infinity'"
STATEMENTS: list[tuple[re.Pattern[str], Callable[[Transaction, re.Match[str]], Awaitable[None]]]] = [
    (re.compile(f"CREATE ROLE {NAME}(?: LOGIN INHERIT PASSWORD {TEXT})?"), _create_role),
    (re.compile(f"ALTER ROLE {NAME} (?:((?:{OPTION})(?: (?:{OPTION}))*)|PASSWORD {TEXT})"), _alter_role),
    (re.compile(f"COMMENT ON ROLE {NAME} IS (?:{TEXT}|NULL)"), _comment),
    (re.compile(f"DROP ROLE {NAMES}"), _drop_role),
    (
        re.compile(
            f"(?:ALTER DEFAULT PRIVILEGES FOR ROLE {NAME} IN SCHEMA {NAME} )?"
            f"(GRANT|REVOKE) (GRANT OPTION FOR )?([A-Z, ]+?) ON (.+?) (?:TO|FROM) {NAMES}"
        ),
        _grant_or_revoke,
    ),
]


class Sessions:
    """As `hoop_operator.postgres.session.Sessions`: a few transactions at a time, all gone when their client is."""

    def __init__(
        self, server: PostgreSQL, schedule: Schedule, leading: Callable[[], bool] = lambda: True
    ) -> None:
        self._leading = leading
        self._server = server
        self._schedule = schedule
        self._slots = asyncio.Semaphore(SESSIONS - 1)
        self._slot_beside = asyncio.Semaphore(1)

    @asynccontextmanager
    async def transaction(
        self, database: str | None = None, *, write: bool = False, beside: bool = False
    ) -> AsyncIterator[Transaction]:
        """Run a transaction; it is committed unless the body raises."""
        async with self._slot_beside if beside else self._slots:
            transaction = Transaction(self._server, self._schedule, database or ADMIN, write=write)
            life = LIFE.get()
            if life is not None:
                # Ended before anything else happens, as the server does when a client's connection closes.
                life.ends.append(lambda: self._roll_back(transaction))
            try:
                yield transaction
                if write:
                    self._insist_on_leading()
                    await transaction.gate("COMMIT")
            except BaseException:
                self._roll_back(transaction)
                raise
            self._server.end(transaction, commit=True)
            if write:
                await self._schedule.gate(
                    "hears of SQL COMMIT", lambda: ServerUnreachable("the connection was lost")
                )

    async def can_log_in(self, user: str, password: str, database: str) -> bool | None:
        """Never asked: the admin can read the verifiers."""
        raise AssertionError("a superuser reads verifiers")

    def _insist_on_leading(self) -> None:
        if not self._leading():
            raise NoLongerLeading("somebody else leads")

    def _roll_back(self, transaction: Transaction) -> None:
        if transaction in self._server.open:
            self._server.end(transaction, commit=False)

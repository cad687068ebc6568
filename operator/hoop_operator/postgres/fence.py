"""A fence around roles: two operators at work on the same role wait for each other, and neither works from an old look.

Which one leads is settled elsewhere, and may be settled wrongly: a process was paused, a clock jumped, a network split.
So every transaction that changes a role begins with `COMMENT ON ROLE`. It takes SHARE UPDATE EXCLUSIVE on the role,
which conflicts with itself and with DROP ROLE, is the same lock in every database, is held to the end of the
transaction, and can be taken only by who may alter the role (source, `CommentObject`; manual, "Explicit Locking").
And it stores the comment anew, the one that the role has, so that each such transaction leaves it in another version.

Under the lock a second session tells which version is committed; the first would see its own comment. Where that is
not the version that was looked at, or that our own last transaction left, somebody else was at work since, and nothing
is done. A new role needs no more than its name, which the server keeps unique; its comment is in the same transaction.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from psycopg import sql

from hoop_operator.errors import RolesChanged, StatementFailed
from hoop_operator.planner.model import DesiredRole, Server
from hoop_operator.planner.roles import alteration_problem
from hoop_operator.planner.statements import chunks, render
from hoop_operator.postgres.executor import STATEMENTS_PER_QUERY
from hoop_operator.postgres.server_errors import LOCK_NOT_AVAILABLE
from hoop_operator.postgres.server_snapshot import RoleVersion, read_versions
from hoop_operator.postgres.session import Sessions, Transaction

UNDEFINED_OBJECT = "42704"


class Fence:
    """The versions in which some roles were looked at, kept up with our own transactions and nobody else's.

    A role that the admin may not alter is not locked, for want of a lock that is open to it: its version is compared
    all the same.
    """

    def __init__(self, sessions: Sessions, server: Server, roles: Iterable[DesiredRole]) -> None:
        self._sessions = sessions
        self._versions = {
            role.name: RoleVersion(server.roles[role.name].version, server.roles[role.name].comment)
            for role in roles
            if role.name in server.roles
        }
        self._lockable = {
            name for name in self._versions if alteration_problem(server.roles[name], server) is None
        }
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def transaction(
        self, names: Iterable[str], database: str | None = None
    ) -> AsyncIterator[Transaction]:
        """Run a transaction that changes or creates roles; it commits unless the body raises.

        Transactions of our own that change the same role come one after another. Locks are taken in the order of the
        roles' names, here and on the server, so that no two wait for each other.

        Raises
        ------
        RolesChanged
            Somebody else changed some of the roles since they were looked at.
        ServerError
            As `Sessions.transaction`.
        """
        in_order = sorted(set(names))
        async with AsyncExitStack() as held:
            for name in in_order:
                await held.enter_async_context(self._turns[name])
            async with self._sessions.transaction(database, write=True) as transaction:
                await self._enter(transaction, [name for name in in_order if name in self._versions])
                yield transaction
                left = await read_versions(transaction, in_order)
            self._lockable.update(left.keys() - self._versions.keys())
            for name in in_order:
                self._versions.pop(name, None)
            self._versions.update(left)

    async def _enter(self, transaction: Transaction, names: Sequence[str]) -> None:
        if not names:
            return
        comments = [
            render(
                "COMMENT ON ROLE {} IS {}", sql.Identifier(name), sql.Literal(self._versions[name].comment)
            )
            for name in names
            if name in self._lockable
        ]
        try:
            for part in chunks(comments, STATEMENTS_PER_QUERY):
                await transaction.execute("; ".join(part))
        except StatementFailed as failure:
            if failure.sqlstate == LOCK_NOT_AVAILABLE:
                raise StatementFailed(
                    f"{failure} (somebody else is changing the same role)", sqlstate=failure.sqlstate
                ) from None
            if failure.sqlstate == UNDEFINED_OBJECT:
                await self._check(names)
            raise
        await self._check(names)

    async def _check(self, names: Sequence[str]) -> None:
        async with self._sessions.transaction(beside=True) as other:
            committed = await read_versions(other, names)
        if changed := [name for name in names if committed.get(name) != self._versions[name]]:
            raise RolesChanged(changed)

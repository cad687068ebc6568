"""Carrying out statements."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import LiteralString

from psycopg import sql

from hoop_operator.errors import StatementFailed
from hoop_operator.planner.model import Role
from hoop_operator.planner.statements import Statement, chunks, render
from hoop_operator.postgres.session import Transaction

STATEMENTS_PER_QUERY = 100
SERIALIZATION_FAILURE = "40001"

ROLE_COMMENT: LiteralString = """
SELECT r.oid, d.description AS comment
  FROM pg_catalog.pg_roles AS r LEFT JOIN pg_catalog.pg_shdescription AS d
    ON d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.objoid = r.oid
 WHERE r.rolname = %(name)s
"""

END_SESSIONS: LiteralString = """
SELECT pg_catalog.pg_terminate_backend(a.pid, 1000)
  FROM pg_catalog.pg_stat_activity AS a WHERE a.usename = ANY (%(names)s)
"""

SERVER_TIME: LiteralString = "SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp()) AS seconds"

END_FORMER_SESSIONS: LiteralString = """
SELECT pg_catalog.bool_and(CASE WHEN a.backend_start IS NULL THEN false
                                ELSE pg_catalog.pg_terminate_backend(a.pid) IS NOT NULL END) AS known
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.usename = %(name)s AND (a.backend_start IS NULL OR a.backend_start < %(before)s)
"""
"""The server shows no `backend_start` to who has neither the rights of the role nor pg_read_all_stats."""


async def execute(
    transaction: Transaction, statements: Iterable[Statement], verifiers: Mapping[str, str]
) -> None:
    """Send statements, in order, many in one round trip.

    Parameters
    ----------
    transaction
        A transaction in the statements' database.
    statements
        What to send.
    verifiers
        The password verifier of each role that a statement sets one for.

    Raises
    ------
    StatementFailed, ServerUnreachable
        As the transaction's own; nothing of the transaction will last.
    """
    for part in chunks(statements, STATEMENTS_PER_QUERY):
        await transaction.execute("; ".join(_sql(statement, verifiers) for statement in part))


async def execute_singly(
    transaction: Transaction, statements: Iterable[Statement], verifiers: Mapping[str, str]
) -> None:
    """Send statements one by one, so that the one that fails can be named.

    Raises
    ------
    StatementFailed
        The message names the statement as people get to see it.
    ServerUnreachable
        The connection broke.
    """
    for statement in statements:
        try:
            await transaction.execute(_sql(statement, verifiers))
        except StatementFailed as failure:
            raise StatementFailed(
                f"{failure} (while running: {statement.text})",
                sqlstate=failure.sqlstate,
                detail=failure.detail,
            ) from None


def _sql(statement: Statement, verifiers: Mapping[str, str]) -> str:
    text = statement.sql
    if statement.verifier_of:
        text = f"{text} {sql.Literal(verifiers[statement.verifier_of]).as_string(None)}"
    return statement.in_its_role(text)


async def hold_role(transaction: Transaction, role: Role, own_comment: str) -> None:
    """See that a role is the one that was found, by OID and comment, and keep it so until the transaction ends.

    Two COMMENT ON ROLE at once would follow one another, and the later one win unseen. Of two ALTER ROLE at once the
    later one fails with "tuple concurrently updated"; and what was committed before ours is seen by the query.

    Parameters
    ----------
    transaction
        A transaction that is to write the role's comment.
    role
        The role as it was found.
    own_comment
        The comment that it is to have, which this transaction may have written already.

    Raises
    ------
    StatementFailed
        It is another role by now, or somebody else's; or somebody is altering it.
    """
    await transaction.execute(render("ALTER ROLE {} LOGIN", sql.Identifier(role.name)))
    rows = await transaction.fetch(sql.SQL(ROLE_COMMENT), {"name": role.name})
    expected = [{"oid": role.oid, "comment": comment} for comment in (role.comment, own_comment)]
    if len(rows) != 1 or rows[0] not in expected:
        raise StatementFailed(
            f'role "{role.name}" was changed while it was to be taken over', sqlstate=SERIALIZATION_FAILURE
        )


async def end_sessions(transaction: Transaction, names: Sequence[str]) -> None:
    """End every session of some roles, and wait for a second each until it has ended.

    Raises
    ------
    StatementFailed
        The admin may not do that.
    """
    await transaction.fetch(sql.SQL(END_SESSIONS), {"names": list(names)})


async def server_time(transaction: Transaction) -> datetime:
    """What the server's clock says.

    Raises
    ------
    ServerError
        The server could not be asked.
    """
    (row,) = await transaction.fetch(sql.SQL(SERVER_TIME), {})
    return datetime.fromtimestamp(float(row["seconds"]), UTC)


async def end_sessions_before(transaction: Transaction, name: str, before: datetime) -> bool:
    """End the sessions of a role that began before a moment; False where there are some of which that is not shown.

    Raises
    ------
    StatementFailed
        The admin may not do that.
    """
    (row,) = await transaction.fetch(sql.SQL(END_FORMER_SESSIONS), {"name": name, "before": before})
    return row["known"] is not False

"""Ending the sessions that were opened with a password which has been replaced since."""

import logging
from datetime import datetime

from psycopg import sql

from hoop_operator.errors import ServerError
from hoop_operator.planner.model import DesiredRole
from hoop_operator.planner.removal import lend_rights
from hoop_operator.planner.statements import render
from hoop_operator.postgres.capabilities import Capabilities
from hoop_operator.postgres.executor import end_sessions_before, execute_singly
from hoop_operator.postgres.fence import Fence
from hoop_operator.postgres.server_snapshot import read_server
from hoop_operator.postgres.session import Sessions
from hoop_operator.reconcile.contention import persist

logger = logging.getLogger(__name__)


async def end_former_sessions(
    sessions: Sessions, fence: Fence, capabilities: Capabilities, role: DesiredRole, before: datetime
) -> str:
    """End the sessions of a role that began before its password was replaced.

    An admin that is no superuser needs the rights of the role for it, or those of pg_signal_backend and
    pg_read_all_stats (PostgreSQL manual, "Server Signaling Functions"); it is lent the former for that transaction.

    Returns
    -------
    Empty where that was done, else why it was not, with the SQL that does it: the rotation stands all the same.
    """
    remedy = render(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {} AND backend_start < {};",
        sql.Literal(role.name),
        sql.Literal(before.isoformat(timespec="microseconds")),
    )
    left = f"sessions of role {role.name} that began before its password was replaced may still be open"

    async def end() -> bool:
        async with sessions.transaction() as transaction:
            server = await read_server(transaction, capabilities, [role.name], ())
        lend, take_back = lend_rights(role, server)
        async with fence.transaction([role.name]) as transaction:
            await execute_singly(transaction, lend, {})
            ended = await end_sessions_before(transaction, role.name, before)
            await execute_singly(transaction, take_back, {})
            return ended

    try:
        ended = await persist(end)
    except ServerError as failure:
        logger.warning("%s: %s", left, failure)
        return f"{left}: {failure}; an administrator has to run: {remedy}"
    if ended:
        return ""
    return f'{left}: the admin "{capabilities.admin}" may not end them; an administrator has to run: {remedy}'

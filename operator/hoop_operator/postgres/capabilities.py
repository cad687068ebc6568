"""What the admin of a resource is and may do on its server."""

from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from hoop_operator.postgres.session import Transaction


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the admin is and may do on its server."""

    version: int
    """As `server_version_num` has it."""
    version_text: str
    """As people say it, such as 18.6."""
    system_identifier: str | None
    admin: str
    is_superuser: bool
    can_create_role: bool
    attributes: frozenset[str]
    """Which of INHERIT, CREATEDB, REPLICATION and BYPASSRLS the admin has."""
    verifiers_readable: bool
    read_only: bool


CAPABILITIES: LiteralString = """
SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4 AS version,
       pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1) AS version_text,
       r.rolname AS admin,
       r.rolsuper AS is_superuser,
       r.rolsuper OR r.rolcreaterole AS can_create_role,
       pg_catalog.array_remove(ARRAY[
         CASE WHEN r.rolinherit THEN 'INHERIT' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
         CASE WHEN r.rolreplication THEN 'REPLICATION' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END
       ], NULL) AS attributes,
       pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS verifiers_readable,
       pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS control_readable,
       pg_catalog.pg_is_in_recovery() AS read_only
  FROM pg_catalog.pg_roles AS r
 WHERE r.rolname = current_user
"""

SYSTEM_IDENTIFIER: LiteralString = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"


async def read_capabilities(transaction: Transaction) -> Capabilities:
    """What the admin is and may do.

    Raises
    ------
    ServerError
        The server could not be asked.
    """
    (row,) = await transaction.fetch(sql.SQL(CAPABILITIES), {})
    system_identifier = None
    if row.pop("control_readable"):
        ((system_identifier,),) = [
            tuple(r.values()) for r in await transaction.fetch(sql.SQL(SYSTEM_IDENTIFIER), {})
        ]
    attributes = frozenset(row.pop("attributes"))
    return Capabilities(system_identifier=system_identifier, attributes=attributes, **row)

"""What the server, libpq and a pooler mean by their errors.

libpq gives no SQLSTATE for a failed connection, so what it says then is recognised by its English words.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping

import psycopg

from hoop_operator.credentials.connection import Connection
from hoop_operator.errors import (
    AuthenticationFailed,
    DatabaseUnavailable,
    ServerError,
    ServerUnreachable,
    StatementFailed,
)
from hoop_operator.postgres.establish import TOO_MUCH_TO_COMPUTE

WRONG_PASSWORD_MESSAGES = ("password authentication failed", "SASL authentication failed")
"""What the server and PgBouncer say in English of a password, and of a user, that are not theirs."""

AUTHENTICATION_MESSAGES = (
    *WRONG_PASSWORD_MESSAGES,
    "authentication method requirement",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "certificate authentication failed",
    "is not permitted to log in",
    "requires a valid client certificate",
    "no such user",
    "SCRAM",
)
"""What libpq, the server and PgBouncer say in English of refused credentials."""

UNKNOWN_ROLE = re.compile(r'role ".*" does not exist')
"""What a server that needs no password says of a user that it does not have."""

TOO_MANY_SESSIONS = "too many connections for role"
"""What the server says in English to a role that is at its CONNECTION LIMIT."""

OTHER_PASSWORD = (*WRONG_PASSWORD_MESSAGES, "invalid iteration count", TOO_MUCH_TO_COMPUTE)
"""What tells that a role's verifier is none of ours: one of no iterations, or of very many, it has set for itself."""

DATABASE_MESSAGES = re.compile(
    r'database ".*" does not exist|is not currently accepting connections|permission denied for database|'
    r"cannot connect to invalid database|no such database"
)
"""What the server says in English when it is one database that cannot be connected to."""

OPTIONS_REFUSED = re.compile("unsupported startup parameter|command-line options")
"""What PgBouncer and Amazon RDS Proxy say of options that they do not know."""

DEADLOCK = "40P01"
LOCK_NOT_AVAILABLE = "55P03"
CONFIGURATION_LIMIT_EXCEEDED = "53400"

CONNECTION_LOST = frozenset(
    {
        *("57P01", "57P02", "57P03", "57P04", "57P05", "53300", "25006", "25P03", "25P04"),
        *("08000", "08003", "08006", "08P01"),
    }
)
"""SQLSTATEs that speak of the server, not of the statement: shutting down, out of connections or time, read-only.

08P01, a protocol violation, is what PgBouncer says whatever is wrong between it and the server.
"""

NO_TRANSACTIONS = "statement pooling mode"
"""What PgBouncer says to who begins a transaction where it allows none."""


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise psycopg's errors as ours.

    Raises
    ------
    StatementFailed, ServerUnreachable
        In place of what psycopg raised.
    """
    try:
        yield
    except psycopg.Error as error:
        raise _statement_error(error) from None
    except TimeoutError:
        raise ServerUnreachable("the server does not answer any more") from None


def connection_error(error: psycopg.Error, who: Connection, paths: Mapping[str, str]) -> ServerError:
    """What a failed connection means; `paths` are those of its certificates, by libpq's names for them."""
    message = _one_line(error)
    for name, path in paths.items():
        # The user knows the variable, and a path is another one every time.
        message = message.replace(path, name.upper())
    if any(known in message for known in AUTHENTICATION_MESSAGES) or UNKNOWN_ROLE.search(message):
        if "authentication method requirement" in message:
            message += " (a cleartext password is sent only over TLS with sslmode verify-ca or verify-full)"
        return AuthenticationFailed(message)
    if DATABASE_MESSAGES.search(message):
        return DatabaseUnavailable(message)
    return ServerUnreachable(f"{who.host}:{who.port}: {message}")


def _statement_error(error: psycopg.Error) -> ServerError:
    message = error.diag.message_primary or _one_line(error)
    if error.sqlstate is None or error.sqlstate in CONNECTION_LOST:
        read_only = "the server is read-only (a standby?): " if error.sqlstate == "25006" else ""
        pooler = (
            "; what stands before the server has to pool by transaction or by session, or HOST has to name the server"
            if NO_TRANSACTIONS in message
            else ""
        )
        return ServerUnreachable(f"{read_only}{message}{pooler}")
    # A deadlock's detail names processes: the same failure would look like another one each time.
    detail = "" if error.sqlstate == DEADLOCK else error.diag.message_detail or ""
    return StatementFailed(message, sqlstate=error.sqlstate, detail=detail)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

"""What can go wrong, in the words of the product.

Every failure that a user may meet is one of these. They import nothing: the edges (the PostgreSQL session, the
Kubernetes client) translate their own exceptions into them, and the reconciler writes `reason` and `message` on the
object as they are.

    HoopError
    ├── ResourceFailure       a HoopResource cannot be registered
    ├── PlanFailure           a HoopRolePlan cannot be carried out
    ├── ServerError           the PostgreSQL server
    │   ├── ServerUnreachable     no connection, or it broke
    │   ├── AuthenticationFailed  the server knows us not, or asks for a cleartext password
    │   ├── DatabaseUnavailable   the server answers, but not for this database
    │   ├── StatementFailed       the server refused a statement
    │   └── Overtaken             somebody else is at work in our place
    │       ├── RolesChanged          they changed roles that we were about to change
    │       └── NoLongerLeading       our lease has run out
    └── ClusterError          the Kubernetes API
        ├── ObjectNotFound        404
        ├── ObjectConflict        409: it exists already, or changed meanwhile
        │   └── NameTaken             the name that we need is somebody else's
        ├── ObjectRejected        400, 422: the API server will not take it
        ├── AccessDenied          401, 403
        └── ClusterUnavailable    no answer, 429, 5xx
"""

from collections.abc import Iterable
from enum import StrEnum


class ResourceReason(StrEnum):
    """Reasons of the `Ready` condition of a HoopResource; scripts and alerts match on them."""

    REGISTERED = "Registered"
    CREDENTIALS_MISSING = "CredentialsMissing"
    CREDENTIALS_INVALID = "CredentialsInvalid"
    CREDENTIALS_UNRESOLVED = "CredentialsUnresolved"
    SERVER_UNREACHABLE = "ServerUnreachable"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    ROLE_CREATION_NOT_ALLOWED = "RoleCreationNotAllowed"
    SECRET_CONFLICT = "SecretConflict"
    IN_USE = "InUse"


class PlanReason(StrEnum):
    """Reasons of the `Ready` condition of a HoopRolePlan; scripts and alerts match on them."""

    APPLIED = "Applied"
    INVALID_SPEC = "InvalidSpec"
    RESOURCE_NOT_FOUND = "ResourceNotFound"
    RESOURCE_NOT_READY = "ResourceNotReady"
    REFERENCE_NOT_ALLOWED = "ReferenceNotAllowed"
    UNSUPPORTED_RESOURCE = "UnsupportedResource"
    GUARDRAIL_VIOLATION = "GuardrailViolation"
    DANGEROUS_SOURCE_ROLE = "DangerousSourceRole"
    SOURCE_ROLE_NOT_FOUND = "SourceRoleNotFound"
    DATABASE_NOT_FOUND = "DatabaseNotFound"
    SCHEMA_NOT_FOUND = "SchemaNotFound"
    ROLE_CONFLICT = "RoleConflict"
    SECRET_CONFLICT = "SecretConflict"
    DEPENDENT_GRANTS = "DependentGrants"
    DEPENDENT_OBJECTS = "DependentObjects"
    INSUFFICIENT_PRIVILEGE = "InsufficientPrivilege"
    SERVER_UNREACHABLE = "ServerUnreachable"
    APPLY_FAILED = "ApplyFailed"
    PENDING_APPROVAL = "PendingApproval"
    SUSPENDED = "Suspended"


OTHERS_AT_WORK = frozenset(
    {
        *("40001", "40P01", "XX000"),
        *("23505", "42710", "3F000", "42704", "42883", "42P01"),
    }
)
"""SQLSTATEs of statements that others may have been too quick for (PostgreSQL manual, appendix A).

A serialization failure, a deadlock, or an internal error, for "tuple concurrently updated" is no more than that to the
server, and said in its language; then, of catalog rows: there already, or not there any more.
"""


class HoopError(Exception):
    """Anything the operator itself knows to be wrong; `str()` of it may be shown to a user."""


class ResourceFailure(HoopError):
    """A HoopResource cannot be registered: `reason` and message go on the object as they are."""

    def __init__(self, reason: ResourceReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class PlanFailure(HoopError):
    """A HoopRolePlan cannot be carried out: `reason` and message go on the object as they are."""

    def __init__(self, reason: PlanReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ServerError(HoopError):
    """The PostgreSQL server failed us; the message names the endpoint and never a credential."""


class ServerUnreachable(ServerError):
    """No connection could be made or it broke, the server is starting, stopping, full or read-only."""


class AuthenticationFailed(ServerError):
    """The server refuses the credentials, or asks for something we will not send."""


class DatabaseUnavailable(ServerError):
    """The server will not connect us to this one database: it is gone, closed, or not for us."""


class StatementFailed(ServerError):
    """The server refused a statement.

    `sqlstate` is the five-character code (PostgreSQL manual, appendix A), `detail` the server's own detail or empty.
    """

    def __init__(self, message: str, *, sqlstate: str, detail: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.detail = detail

    @property
    def is_transient(self) -> bool:
        """Whether others who change the same catalogs may be the cause, so that looking again may be the cure."""
        return self.sqlstate in OTHERS_AT_WORK


class Overtaken(ServerError):
    """Somebody else is at work in our place, and the transaction was rolled back.

    What is to become of the roles has to be found out anew, from the Kubernetes API on; nothing is told on the objects.
    """


class NoLongerLeading(Overtaken):
    """Another operator may be leading by now."""


class RolesChanged(Overtaken):
    """Roles, `names`, are not any more what they were when they were looked at."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        super().__init__(
            f"changed by somebody else since they were looked at: {', '.join(sorted(self.names))}"
        )


class ClusterError(HoopError):
    """The Kubernetes API failed us; `status` is the HTTP status, 0 where there was no answer.

    `causes` are what it says of single fields. They may quote what was sent, and are no part of `str()`: only who sent
    it may be shown them.
    """

    def __init__(self, message: str, *, status: int = 0, causes: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.causes = tuple(causes)


class ObjectNotFound(ClusterError):
    """404: the object does not exist."""


class ObjectConflict(ClusterError):
    """409: the object exists already, or is no longer the version that was read."""


class NameTaken(ObjectConflict):
    """A name that only we have a use for is another object's, and will be until somebody deletes that."""


class ObjectRejected(ClusterError):
    """400 or 422: the API server will not take what was sent."""


class AccessDenied(ClusterError):
    """401 or 403: the account that asks may not do that."""


class ClusterUnavailable(ClusterError):
    """No answer, 429 or 5xx: trying again later is the remedy."""

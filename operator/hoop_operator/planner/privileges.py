"""Which privilege a plan means on which kind of object, and how privileges and grantees are written."""

from collections.abc import Iterable, Mapping
from typing import LiteralString

from psycopg import sql

from hoop_operator.crd import Privilege
from hoop_operator.planner.model import DatabaseState, DesiredRole, ObjectKind, Schema
from hoop_operator.planner.statements import Change, ChangeKind, keyword

TABLE_PRIVILEGES = frozenset(
    {
        Privilege.SELECT,
        Privilege.INSERT,
        Privilege.UPDATE,
        Privilege.DELETE,
        Privilege.TRUNCATE,
        Privilege.REFERENCES,
        Privilege.TRIGGER,
    }
)
PLURALS: Mapping[ObjectKind, LiteralString] = {
    ObjectKind.TABLE: "TABLES",
    ObjectKind.SEQUENCE: "SEQUENCES",
    ObjectKind.ROUTINE: "ROUTINES",
}


def object_privileges(privileges: Iterable[Privilege]) -> dict[ObjectKind, frozenset[str]]:
    """The privileges that a plan means on each kind of object in a schema (manual, "Privileges", table 5.2).

    Who may insert into a table with a serial column needs its sequence too.
    """
    asked = frozenset(privileges)
    wanted: dict[ObjectKind, frozenset[str]] = {
        ObjectKind.SCHEMA: frozenset({"USAGE", "CREATE"} if Privilege.CREATE in asked else {"USAGE"})
    }
    if tables := asked & TABLE_PRIVILEGES:
        wanted[ObjectKind.TABLE] = frozenset(privilege.value for privilege in tables)
    if asked & {Privilege.INSERT, Privilege.UPDATE}:
        wanted[ObjectKind.SEQUENCE] = frozenset({"USAGE", "SELECT"})
    if Privilege.EXECUTE in asked:
        wanted[ObjectKind.ROUTINE] = frozenset({"EXECUTE"})
    return wanted


def scoped_schemas(desired: DesiredRole, state: DatabaseState) -> list[Schema]:
    """The schemas of a plan's scopes that exist in a database."""
    names = sorted(scope.schema for scope in desired.scopes if scope.database == state.name)
    return [state.schemas[name] for name in names if name in state.schemas]


def privilege_list(privileges: Iterable[str], column: str | None = None) -> sql.Composable:
    """Privileges as GRANT and REVOKE take them, on one column where one is named."""
    suffix = sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL("")
    return sql.SQL(", ").join(sql.SQL("{}{}").format(keyword(name), suffix) for name in sorted(privileges))


def grant_change(
    privileges: Iterable[str], target: str, *, column: str | None = None, option_only: bool = False
) -> Change:
    """What a GRANT or REVOKE changes, in words; `target` is in words too."""
    suffix = f' ("{column}")' if column else ""
    names = ", ".join(f"{name}{suffix}" for name in sorted(privileges))
    option = "GRANT OPTION for " if option_only else ""
    return Change(ChangeKind.GRANT, f"{option}{names} on {target}")


def grantee_name(name: str) -> sql.Composable:
    """A grantee as GRANT and REVOKE take it; the empty name is PUBLIC."""
    return sql.Identifier(name) if name else sql.SQL("PUBLIC")

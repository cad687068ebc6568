"""Statements as a diff: what is given, what is taken away, what becomes another."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from psycopg import sql

from hoop_operator.planner.statements import Statement
from hoop_operator.reconcile.script import printable_sql
from hoop_operator.reconcile.shown import database_and_text

GIVEN, TAKEN, CHANGED = "+", "-", "~"
STYLES = {GIVEN: "green", TAKEN: "red", CHANGED: "yellow"}

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_AS_ROLE = re.compile(r'SET LOCAL ROLE ""; ')


class Change(NamedTuple):
    """One statement and where it is run; no database means the server as a whole."""

    database: str | None
    text: str

    @property
    def sign(self) -> str:
        """Whether the statement gives, takes away or changes."""
        bare = _QUOTED.sub('""', self.text)
        # Whoever acts as another role may first have to lend it something.
        *_, core = _AS_ROLE.split(bare, maxsplit=1)
        words = core.partition(";")[0].split()
        if "REVOKE" in words or words[:1] == ["DROP"]:
            return TAKEN
        return GIVEN if words[:1] == ["CREATE"] or "GRANT" in words else CHANGED


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return sql.Identifier(name).as_string(None)


def of_status(texts: Iterable[str]) -> list[Change]:
    """The changes that `status.plan.statements` shows."""
    return [Change(*database_and_text(text)) for text in texts]


def of_statements(statements: Iterable[Statement]) -> list[Change]:
    """The changes that statements make."""
    return [Change(statement.database, statement.text) for statement in statements]


def diff(changes: Iterable[Change]) -> Iterator[tuple[str, str]]:
    """Lines with their style, those of one database below its name."""
    for database, group in groupby(changes, key=lambda change: change.database):
        yield ("@@ the server @@" if database is None else f"@@ database {quoted(database)} @@"), "cyan"
        for change in group:
            yield f"{change.sign} {printable_sql(change.text)};", STYLES[change.sign]

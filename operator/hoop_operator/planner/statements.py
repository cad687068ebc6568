"""Statements: what will be sent, in the order it will be sent, fit to be shown before it is."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from itertools import islice
from typing import LiteralString, NamedTuple, TypeVar

from psycopg import sql

from hoop_operator.planner.model import DatabaseObject, ObjectKind

GRANTEES_PER_STATEMENT = 500
OBJECTS_PER_STATEMENT = 200
CHECKSUM_LENGTH = 40
"""In hexadecimal digits."""

T = TypeVar("T")

REDACTED = "'********'"


class Phase(IntEnum):
    """Where in a transaction a statement has its place."""

    ROLE = 0
    """The role comes into being."""
    ALTER = 1
    REDUCE = 2
    """Attributes, memberships and what the role granted itself are taken away: revokes depend on that."""
    REVOKE = 3
    GRANT = 4

    @property
    def takes_away(self) -> bool:
        """Whether a statement of it leaves less than there was, and so is run even where a check failed."""
        return self in {Phase.REDUCE, Phase.REVOKE}


class ChangeKind(StrEnum):
    """What of a role a statement changes."""

    ROLE = "role"
    COMMENT = "comment"
    ATTRIBUTE = "attribute"
    MEMBERSHIP = "membership"
    GRANT = "grant"


class Change(NamedTuple):
    """What a statement changes, for people: `what` is what it gives, takes away or sets, such as `LOGIN`."""

    kind: ChangeKind
    what: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, rendered but for its grantees and its password verifier, which the executor puts in."""

    phase: Phase
    database: str | None
    """None: about the server as a whole, run in the admin's database."""
    head: str
    grantees: tuple[str, ...] = ()
    """Roles that stand at the end of `head`; statements that differ in nothing else are merged into one."""
    as_role: str | None = None
    """The role to act as, where the admin itself is not the right grantor."""
    lent_schemas: tuple[str, ...] = ()
    """Schemas in which `as_role` may not name objects, and on which it has USAGE for the length of the statement."""
    verifier_of: str | None = None
    """The role whose password verifier ends the statement; the text for people has asterisks there."""
    objects: int = 0
    """How many objects a bulk statement meets at the time of planning."""
    change: Change | None = field(default=None, compare=False)
    """What it does to the role of a plan; None where it is but a step of a removal."""

    @property
    def sql(self) -> str:
        """The statement as the server gets it, but for a verifier."""
        return f"{self.head} {grantee_list(self.grantees)}" if self.grantees else self.head

    @property
    def text(self) -> str:
        """The statement as people get to see it."""
        return self.in_its_role(f"{self.sql} {REDACTED}" if self.verifier_of else self.sql)

    @property
    def by_hand(self) -> str:
        """The SQL for an administrator to run the statement."""
        return f"{self.text};" if self.as_role is None else f"BEGIN; {self.text}; COMMIT;"

    def in_its_role(self, text: str) -> str:
        """The SQL `text` with what it takes to run it as `as_role`; without one the text itself."""
        if self.as_role is None:
            return text
        role = sql.Identifier(self.as_role)
        steps = [render("SET LOCAL ROLE {}", role), text, "SET LOCAL ROLE NONE"]
        for schema in map(sql.Identifier, self.lent_schemas):
            lend = render("GRANT USAGE ON SCHEMA {} TO {}", schema, role)
            steps = [lend, *steps, render("REVOKE USAGE ON SCHEMA {} FROM {}", schema, role)]
        return "; ".join(steps)


def render(template: LiteralString, *parts: sql.Composable) -> str:
    """SQL text of `template` with each `{}` filled."""
    return sql.SQL(template).format(*parts).as_string(None)


def grantee_list(names: Iterable[str]) -> str:
    """Role names, quoted, with commas between."""
    return sql.SQL(", ").join(map(sql.Identifier, names)).as_string(None)


def keyword(word: str) -> sql.SQL:
    """A word of SQL that comes from an enumeration of ours or of the server's privilege names, never from a user.

    Raises
    ------
    ValueError
        The word is not made of upper-case letters and spaces.
    """
    if not all(part.isascii() and part.isalpha() and part.isupper() for part in word.split(" ")):
        raise ValueError(f"{word!r} is no SQL keyword")
    return sql.SQL(word)


def object_reference(target: DatabaseObject) -> sql.Composable:
    """The name of an object as GRANT and REVOKE take it."""
    if target.kind is ObjectKind.LARGE_OBJECT:
        return sql.Literal(target.oid)
    if target.kind is ObjectKind.PARAMETER:
        return sql.SQL(".").join(map(sql.Identifier, target.name.split(".")))
    name = (
        sql.Identifier(target.schema, target.name)
        if target.schema is not None
        else sql.Identifier(target.name)
    )
    if target.kind is ObjectKind.ROUTINE:
        # Without a mode, a procedure of another name space of arguments, its OUT ones, would be looked for too.
        types = sql.SQL(", ").join(
            sql.SQL("IN {}").format(sql.Identifier(*type_name)) for type_name in target.argument_types
        )
        return sql.SQL("{}({})").format(name, types)
    return name


def chunks(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """`items` in tuples of at most `size`."""
    iterator = iter(items)
    while chunk := tuple(islice(iterator, size)):
        yield chunk


def merge(statements: Iterable[Statement]) -> list[Statement]:
    """The same effect in fewer statements, in an order that holds within one transaction.

    Statements that differ in their grantees alone become one, so that a table's ACL is rewritten once for many roles.
    """
    grantees: dict[Statement, dict[str, None]] = {}
    for statement in sorted(statements, key=lambda statement: statement.phase):
        grantees.setdefault(replace(statement, grantees=()), {}).update(dict.fromkeys(statement.grantees))
    merged: list[Statement] = []
    for statement, names in grantees.items():
        if names:
            merged.extend(replace(statement, grantees=part) for part in chunks(names, GRANTEES_PER_STATEMENT))
        else:
            merged.append(statement)
    return merged


def checksum(statements: Sequence[Statement], last_applied_sid: str | None, server: str) -> str:
    """A digest of a plan's effects, to be approved by a person.

    It covers the statements as shown, how many objects each bulk statement meets, the server that they are for, and
    the sid of the last apply, so that one approval is good for one apply. It is long enough that nobody finds two plans
    with the same one, of which the harmless would be approved and the other be applied.
    """
    digest = hashlib.sha256()
    # Sorted: within a phase the planner's order means nothing, and may be another one in another process.
    for effect in sorted(f"{s.database or ''}\0{s.text}\0{s.objects}\n" for s in statements):
        digest.update(effect.encode())
    digest.update(f"{last_applied_sid or ''}\0{server}".encode())
    return digest.hexdigest()[:CHECKSUM_LENGTH]

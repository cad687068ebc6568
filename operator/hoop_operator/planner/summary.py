"""What statements do, in words, for a person who is to approve them."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from psycopg import sql

from hoop_operator.planner.statements import Phase, Statement

DATABASES_NAMED = 10
"""How many databases are told of by name; a message has to end with what to do about it."""


def in_words(statements: Sequence[Statement]) -> str:
    """What a plan's statements do: to the role itself first, then database by database.

    Parameters
    ----------
    statements
        In a plan's order, by database.
    """
    phrases: list[str] = []
    databases: list[tuple[str, str]] = []
    for database, group in groupby(statements, key=lambda statement: statement.database):
        if database is None:
            phrases += _on_server([*group])
        else:
            databases.append((database, " and ".join(_on_objects([*group]))))
    phrases += [f"{what} in database {_quoted(name)}" for name, what in databases[:DATABASES_NAMED]]
    if (others := len(databases) - DATABASES_NAMED) > 0:
        phrases.append(f"changes grants in {_count(others, 'more database')}")
    return "; ".join(phrases)


def _on_server(statements: Sequence[Statement]) -> Iterator[str]:
    of_role = [statement for statement in statements if not statement.objects]
    if any(statement.verifier_of for statement in of_role):
        yield "creates the role"
    elif any(statement.phase is Phase.ROLE for statement in of_role):
        yield "marks the role as this plan's by its comment"
    if any(statement.head.startswith("ALTER ROLE") for statement in of_role):
        yield "changes the role's attributes"
    if lost := sum(statement.head.startswith("REVOKE") for statement in of_role):
        yield f"takes back {_count(lost, 'membership')}"
    if any(statement.phase is Phase.GRANT for statement in of_role):
        yield "makes it a member of its source role"
    yield from _on_objects([statement for statement in statements if statement.objects])


def _on_objects(statements: Sequence[Statement]) -> Iterator[str]:
    for verb, part in (
        ("grants", [statement for statement in statements if not statement.phase.takes_away]),
        ("revokes", [statement for statement in statements if statement.phase.takes_away]),
    ):
        objects = sum(statement.objects for statement in part)
        later = any(not statement.objects for statement in part)
        if objects or later:
            on = [_count(objects, "object")] if objects else []
            yield f"{verb} on {' and '.join([*on, *(['objects created later'] if later else [])])}"


def _quoted(name: str) -> str:
    """A name as in SQL: so none looks like further words of ours."""
    return sql.Identifier(name).as_string(None)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

"""Previews as a script for psql, in which all that is not SQL is a comment."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from urllib.parse import quote

from hoop_operator.planner.statements import REDACTED
from hoop_operator.reconcile.dry_run import Preview

PASSWORD_VARIABLE = "password"
"""The variable of psql that stands where a run puts the verifier: unset, it is a syntax error, and nothing is run."""

_PLAIN_DATABASE = re.compile(r"[\w .-]+")
"""Names that psql's `\\connect` takes for nothing but a name, once they stand in double quotes."""

_QUOTED = re.compile(r"""(?P<literal>'(?:[^']|'')*')|"(?P<identifier>(?:[^"]|"")*)\"""")


def psql_script(previews: Sequence[Preview]) -> str:
    """The statements of all plans in the order in which runs send them, beside what a person should know."""
    lines = [line for preview in previews for line in (*_plan(preview), "")]
    return "\n".join([*lines, _summary(previews), ""])


def one_line(text: str) -> str:
    """`text` with what cannot be printed escaped: names may hold line breaks, and what a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plan(preview: Preview) -> Iterator[str]:
    plan = preview.plan
    role = f"role {preview.role} " if preview.role else ""
    place = ""
    if preview.connection is not None:
        host, port = preview.connection.endpoint
        version = f", PostgreSQL {preview.server_version}" if preview.server_version else ""
        place = f" ({host}:{port}{version})"
    yield _comment(f"HoopRolePlan {plan.key}: {role}on HoopResource {plan.resource_key}{place}")
    for reason, message in dict.fromkeys(preview.problems):
        yield _comment(f"cannot be applied: {reason}: {message}")
    for remark in preview.remarks:
        yield _comment(f"note: {remark}")
    if preview.suspended:
        yield _comment("suspended: nothing is done until spec.suspend is false")
    elif preview.statements:
        if preview.approval:
            yield _comment(preview.approval)
        if preview.problems:
            once = ", once it is approved" if preview.approval else ""
            yield _comment(f"what is extra is revoked all the same{once}:")
        yield from _statements(preview)
    elif not preview.problems:
        yield _comment("nothing to do")


def _statements(preview: Preview) -> Iterator[str]:
    """The statements, one transaction for each database as in a run: without one, SET LOCAL has no effect."""
    for database, statements in groupby(preview.statements, key=lambda statement: statement.database):
        name = database
        if name is None:
            name = preview.connection.database if preview.connection is not None else ""
        yield from _connect(name)
        yield "BEGIN;"
        for statement in statements:
            text = printable_sql(statement.text)
            if statement.verifier_of is not None:
                yield _comment(
                    f"a run generates the password; to run this by hand, put one in before: \\set {PASSWORD_VARIABLE} …"
                )
                text = text.removesuffix(REDACTED) + f":'{PASSWORD_VARIABLE}'"
            yield f"{text};"
        yield "COMMIT;"


def _connect(database: str) -> Iterator[str]:
    """The command of psql to go on in another database of the same server.

    A name with an equals sign would be taken for connection parameters, and none may hold a line break; a URI takes
    every name (manual, "psql", and "Connection URIs").
    """
    if _PLAIN_DATABASE.fullmatch(database):
        yield f'\\connect "{database}"'
    else:
        yield _comment(f'database "{database}"')
        yield f'\\connect -reuse-previous=on "postgresql:///{quote(database, safe="")}"'


def printable_sql(statement: str) -> str:
    """The same SQL, with names that hold what cannot be printed in Unicode escapes: a terminal may obey such."""
    if statement.isprintable():
        return statement
    return _QUOTED.sub(
        lambda match: match[0] if match["literal"] else _escaped(match["identifier"]), statement
    )


def _escaped(identifier: str) -> str:
    if identifier.isprintable():
        return f'"{identifier}"'
    escaped = identifier.replace("\\", "\\\\")
    shown = "".join(c if c.isprintable() else f"\\+{ord(c):06X}" for c in escaped)
    return f'U&"{shown}"'


def _summary(previews: Sequence[Preview]) -> str:
    failed = sum(bool(preview.problems) for preview in previews)
    changed = sum(bool(preview.statements) and not preview.problems for preview in previews)
    statements = sum(len(preview.statements) for preview in previews)
    return _comment(
        f"plans: {len(previews)}; with changes: {changed}; nothing to do: {len(previews) - failed - changed}; "
        f"cannot be applied: {failed}; statements: {statements}"
    )


def _comment(text: str) -> str:
    return f"-- {one_line(text)}"

"""How a status shows a statement: its SQL, behind a comment with the database that it is run in."""

import re

from hoop_operator.planner.statements import Statement

_MARKED = re.compile(r"/\* (?P<database>.*?) \*/ (?P<text>.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def shown(statement: Statement) -> str:
    r"""The text of a statement for a status.

    What would begin or end a comment within the name of the database is written `/\*` and `*\/`, and a backslash
    twice: whoever names databases must not be able to show one statement as another.
    """
    if statement.database is None:
        return statement.text
    name = statement.database.replace("\\", "\\\\").replace("*/", r"*\/").replace("/*", r"/\*")
    return f"/* {name} */ {statement.text}"


def database_and_text(text: str) -> tuple[str | None, str]:
    """The database and the SQL of a statement that a status shows; no database for the server as a whole."""
    marked = _MARKED.fullmatch(text)
    return (_ESCAPED.sub(r"\1", marked["database"]), marked["text"]) if marked else (None, text)

"""How a status shows statements, whatever a database is called."""

import pytest

from hoop_operator.planner.statements import Phase, Statement
from hoop_operator.reconcile.shown import database_and_text, shown

GRANT = 'GRANT SELECT ON "t" TO "a"'


@pytest.mark.parametrize(
    "database",
    [None, "shop", "x */ REVOKE ALL; --", "/*", "*/*", "/*/", r"*\/", "\\", "*", "/", "a\nb", " */ "],
)
def test_no_name_of_a_database_ends_the_comment_that_it_is_shown_in(database: str | None) -> None:
    text = shown(Statement(Phase.GRANT, database, GRANT))
    assert database_and_text(text) == (database, GRANT)
    assert text.count("/*") == text.count("*/") == (database is not None)

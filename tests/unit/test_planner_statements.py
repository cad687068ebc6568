import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from hoop_operator.planner.model import DatabaseObject, ObjectKind
from hoop_operator.planner.statements import (
    GRANTEES_PER_STATEMENT,
    Phase,
    Statement,
    checksum,
    chunks,
    grantee_list,
    keyword,
    merge,
    object_reference,
    render,
)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_identifier_is_quoted_so_that_it_reads_back_as_itself(name: str) -> None:
    text = grantee_list([name])
    assert re.fullmatch(r'"(?:[^"]|"")*"', text)
    assert text[1:-1].replace('""', '"') == name


def test_an_object_is_named_as_grant_takes_it() -> None:
    def reference(kind: ObjectKind, name: str, schema: str | None = None, *types: tuple[str, str]) -> str:
        return object_reference(DatabaseObject(4294967295, kind, schema, name, "o", types)).as_string(None)

    assert reference(ObjectKind.TABLE, 'a"b', "my.schema") == '"my.schema"."a""b"'
    assert reference(ObjectKind.DATABASE, "100%s") == '"100%s"'
    assert reference(ObjectKind.LARGE_OBJECT, "4294967295") == "4294967295"
    assert reference(ObjectKind.PARAMETER, "my.setting") == '"my"."setting"'
    types = (("pg_catalog", "_int4"), ("s", "odd type"))
    # The mode keeps a procedure with OUT arguments of these types from being meant.
    assert (
        reference(ObjectKind.ROUTINE, "f", "s", *types)
        == '"s"."f"(IN "pg_catalog"."_int4", IN "s"."odd type")'
    )
    assert reference(ObjectKind.ROUTINE, "f", "s") == '"s"."f"()'


@pytest.mark.parametrize("word", ["select", "SELECT;", "SELECT  X", "", "SELECT\n", "ÄB"])
def test_nothing_but_a_keyword_passes_for_one(word: str) -> None:
    with pytest.raises(ValueError, match="keyword"):
        keyword(word)


def test_a_verifier_is_never_shown() -> None:
    statement = Statement(Phase.ROLE, None, 'CREATE ROLE "r" PASSWORD', verifier_of="r")
    assert statement.text == "CREATE ROLE \"r\" PASSWORD '********'"
    assert statement.sql == 'CREATE ROLE "r" PASSWORD'


def test_who_acts_is_shown() -> None:
    statement = Statement(Phase.REVOKE, "db", "REVOKE SELECT ON TABLE t FROM", ("r",), as_role='g"1')
    assert statement.text == ('SET LOCAL ROLE "g""1"; REVOKE SELECT ON TABLE t FROM "r"; SET LOCAL ROLE NONE')


def test_a_literal_stands_whatever_the_server_makes_of_backslashes() -> None:
    assert render("{}", sql.Literal("it's \\ so")).strip() == r"E'it''s \\ so'"


statements = st.builds(
    Statement,
    phase=st.sampled_from(Phase),
    database=st.sampled_from([None, "a", "b"]),
    head=st.sampled_from(["GRANT SELECT ON TABLE t TO", "REVOKE SELECT ON TABLE t FROM", "GRANT X TO"]),
    grantees=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True).map(tuple),
    as_role=st.sampled_from([None, "g"]),
    objects=st.integers(0, 2),
)


def effects(found: list[Statement]) -> set[tuple[object, ...]]:
    return {(s.phase, s.database, s.head, s.as_role, s.objects, g) for s in found for g in s.grantees}


@given(st.lists(statements))
def test_merging_keeps_every_effect_makes_none_twice_and_keeps_the_phases_in_order(
    given_statements: list[Statement],
) -> None:
    merged = merge(given_statements)

    assert effects(merged) == effects(given_statements)
    per_effect = Counter(
        (s.phase, s.database, s.head, s.as_role, s.objects, g) for s in merged for g in s.grantees
    )
    assert set(per_effect.values()) <= {1}
    assert [s.phase for s in merged] == sorted(s.phase for s in merged)
    assert merge(merged) == merged


def test_statements_that_differ_in_their_grantees_alone_become_one() -> None:
    many = [
        Statement(Phase.GRANT, "db", "GRANT SELECT ON TABLE t TO", (f"r{n}",), objects=1)
        for n in range(GRANTEES_PER_STATEMENT + 1)
    ]
    assert [len(s.grantees) for s in merge(many)] == [GRANTEES_PER_STATEMENT, 1]


def test_statements_without_grantees_stay_single_and_in_order() -> None:
    first = Statement(Phase.ROLE, None, 'CREATE ROLE "a" PASSWORD', verifier_of="a")
    second = Statement(Phase.ROLE, None, "COMMENT ON ROLE \"a\" IS 'x'")
    assert merge([first, second]) == [first, second]


@given(st.lists(st.integers()), st.integers(1, 5))
def test_chunks_hold_all_in_order_and_none_is_too_long(items: list[int], size: int) -> None:
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(0 < len(part) <= size for part in parts)


def test_an_approval_is_for_these_effects_on_these_objects_after_this_apply() -> None:
    one = Statement(Phase.GRANT, "db", "GRANT SELECT ON ALL TABLES IN SCHEMA s TO", ("r",), objects=3)
    other_size = Statement(Phase.GRANT, "db", one.head, ("r",), objects=4)
    other_place = Statement(Phase.GRANT, "db2", one.head, ("r",), objects=3)

    assert checksum([one, other_place], "sid", "db:5432 7") == checksum(
        [other_place, one], "sid", "db:5432 7"
    )
    sums = {
        checksum([one], "sid", "db:5432 7"),
        checksum([one], "sid2", "db:5432 7"),
        checksum([one], None, "db:5432 7"),
        checksum([other_size], "sid", "db:5432 7"),
        checksum([other_place], "sid", "db:5432 7"),
        checksum([one, one], "sid", "db:5432 7"),
        checksum([], "sid", "db:5432 7"),
        checksum([one], "sid", "db:5433 7"),
        checksum([one], "sid", "db:5432 8"),
    }
    assert len(sums) == 9


def test_a_statement_for_an_administrator_says_who_it_is_run_as() -> None:
    assert Statement(Phase.ALTER, None, "ALTER", ("a",)).by_hand == 'ALTER "a";'
    statement = Statement(Phase.REVOKE, "db", "REVOKE", ("a",), as_role="b", lent_schemas=("s",))
    assert statement.by_hand == (
        'BEGIN; GRANT USAGE ON SCHEMA "s" TO "b"; SET LOCAL ROLE "b"; REVOKE "a"; SET LOCAL ROLE NONE; '
        'REVOKE USAGE ON SCHEMA "s" FROM "b"; COMMIT;'
    )

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.planner.scopes import Scope, parse_scope, scope_matches

names = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=15
).filter(lambda name: not name.startswith("pg_"))


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize(
    ("text", "database", "schema"),
    [
        ("shop", "shop", "public"),
        ("shop.sales", "shop", "sales"),
        ("Shop.Sales", "Shop", "Sales"),
        ("a.b.c", "a", "b.c"),
        ('"my.db".public', "my.db", "public"),
        ('"my.db"', "my.db", "public"),
        ('"a""b".s', 'a"b', "s"),
        ('shop."a.b"', "shop", "a.b"),
        ('shop."a""b"', "shop", 'a"b'),
        ('"a""".s', 'a"', "s"),
        ("with space.été", "with space", "été"),
        ("shop.pgcrypto", "shop", "pgcrypto"),
        ("pg_db", "pg_db", "public"),
        ("d" * 63 + "." + "s" * 63, "d" * 63, "s" * 63),
    ],
)
def test_a_scope_is_read(text: str, database: str, schema: str) -> None:
    assert parse_scope(text) == Scope(database, schema)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a name is empty"),
        (".", "a name is empty"),
        (".public", "a name is empty"),
        ("db.", "a name is empty"),
        ('"".public', "a name is empty"),
        ('db.""', "a name is empty"),
        ('"db"x.public', "only a dot and a schema may follow the closing quote"),
        ('db."s"x', "a quote must enclose a whole name"),
        ('"db', "a quote must enclose a whole name"),
        ('d"b.public', "a quote must enclose a whole name"),
        ("db.pg_catalog", "pg_catalog belongs to the system"),
        ('db."pg_temp_1"', "pg_temp_1 belongs to the system"),
        ("db.information_schema", "information_schema belongs to the system"),
        ("d" * 64, "the database has more than the 63 bytes"),
        ("db." + "é" * 32, "the schema has more than the 63 bytes"),
        ("d\0b", "the database name holds a NUL"),
        ("db.s\0", "the schema name holds a NUL"),
    ],
)
def test_a_bad_scope_is_refused_with_its_text_and_its_fault(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as raised:
        parse_scope(text)
    assert repr(text) in str(raised.value)


@given(names, names)
def test_quoting_round_trips_any_name(database: str, schema: str) -> None:
    assert parse_scope(f"{quote(database)}.{quote(schema)}") == Scope(database, schema)


@given(names, names)
def test_a_scope_written_as_text_reads_as_itself(database: str, schema: str) -> None:
    assert parse_scope(str(Scope(database, schema))) == Scope(database, schema)


@pytest.mark.parametrize(
    ("glob", "covered", "not_covered"),
    [
        ("shop", ["shop.public"], ["shop.sales", "shop2.public"]),
        ("*", ["shop.public"], ["shop.sales"]),
        ("*.*", ["shop.public", "shop.sales", '"a.b"."c.d"'], []),
        ("shop.*", ["shop.sales", "shop.a.b"], ["shop2.sales"]),
        ("sh?p.s*", ["shop.sales", "ship.s"], ["sp.sales", "shop.public"]),
        ("shop[12]", ["shop1"], ["shop3", '"shop[12]"']),
        ("shop", ["shop"], ["Shop", "SHOP"]),
        ('"my.*".*', ['"my.*".x'], ['"my.db".x']),
        ('"my.db".*', ['"my.db".x'], ["my.db"]),
        ('*."*"', ["shop.*"], ["shop.public"]),
    ],
)
def test_a_glob_is_matched_part_by_part(glob: str, covered: list[str], not_covered: list[str]) -> None:
    for text in covered:
        assert scope_matches(glob, parse_scope(text)), text
    for text in not_covered:
        assert not scope_matches(glob, parse_scope(text)), text


@pytest.mark.parametrize("glob", ["", ".", "shop.", '"shop', '"shop"x.*'])
def test_a_glob_that_is_no_scope_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        scope_matches(glob, Scope("shop", "public"))


@given(names, names)
def test_a_quoted_scope_as_glob_covers_exactly_itself(database: str, schema: str) -> None:
    glob = f"{quote(database)}.{quote(schema)}"
    assert scope_matches(glob, Scope(database, schema))
    assert not scope_matches(glob, Scope(database + "x", schema))
    assert not scope_matches(glob, Scope(database, schema + "x"))

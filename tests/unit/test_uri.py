import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from hoop_operator.credentials.output import output_data
from hoop_operator.credentials.uri import parse_uri

text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)
LIBPQ_NAMES = {"HOST": "host", "PORT": "port", "USER": "user", "PASS": "password", "DB": "dbname"}
LIBPQ_NAMES |= {"SSLMODE": "sslmode", "CONNECT_TIMEOUT": "connect_timeout"}


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:p@db.example:6543/app?sslmode=require&connect_timeout=3",
        "postgres://u:p@db/app",
        "postgresql://db",
        "postgresql://db/",
        "postgresql://u@db:5432",
        "postgresql://u:@db",
        "postgresql://u:p%40%2F%3A%25%20@db/a%2Fb%3F",
        "postgresql://u:p?#:x@db/a",
        "postgresql://u:p@[2001:db8::1]:5433/app",
        "postgresql://u:p@%64b/app",
        "postgresql://u:p+q@db/app",
        "postgresql://u:p@db?sslmode=verify%2Dfull",
        "postgresql://u:p@db/a#b",
        "postgresql://postgres:pw@cluster-rw.ns:5432/*",
    ],
)
def test_a_uri_is_read_as_libpq_reads_it(uri: str) -> None:
    parts, problems = parse_uri(uri.encode())
    assert problems == []
    expected = {name: value for name, value in conninfo_to_dict(uri).items() if value}
    host = parts["HOST"].decode().strip("[]")
    assert {LIBPQ_NAMES[name]: value.decode() for name, value in parts.items()} | {"host": host} == expected


@given(user=text, password=text, database=text)
def test_the_uri_of_an_output_secret_is_read_back(user: str, password: str, database: str) -> None:
    data = output_data(
        host="db.example",
        port=5433,
        username=user,
        password=password,
        database=database,
        databases=[database],
        sslmode="require",
        ca_certificate=None,
    )
    parts, problems = parse_uri(data["uri"].encode())
    assert problems == []
    assert {name: value.decode() for name, value in parts.items()} == {
        "HOST": "db.example",
        "PORT": "5433",
        "USER": user,
        "PASS": password,
        "DB": database,
        "SSLMODE": "require",
    }


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("mysql://u:p@db/app", "does not read postgresql://"),
        ("jdbc:postgresql://db/app", "does not read postgresql://"),
        ("db.example", "does not read postgresql://"),
        ("postgresql://u:p@[2001:db8::1/app", "does not read postgresql://"),
        ("postgresql://u:p@[2001:db8::1]x/app", "does not read postgresql://"),
        ("postgresql:///app", "no host"),
        ("postgresql://u:p@/app", "no host"),
        ("postgresql://u:p@a,b/app", "several hosts"),
        ("postgresql://u:p@a:1,b:2/app", "several hosts"),
        ("postgresql://u:p@db/app?service=x", "parameter other than"),
        ("postgresql://u:p@db/app?passfile=/etc/shadow", "parameter other than"),
        ("postgresql://u:p@db/app?sslkey=/path", "parameter other than"),
        ("postgresql://u:p@db/app?host=/var/run", "parameter other than"),
        ("postgresql://u:p@db/app?ssl=true", "parameter other than"),
        ("postgresql://u:p@db/app?SSLMODE=require", "parameter other than"),
        ("postgresql://u:p@db/app?sslmode=require&options=-c%20x", "parameter other than"),
        ("postgresql://u:p@db/app?sslmode=require&sslmode=disable", "sslmode twice"),
        ("postgresql://u:p%zz@db/app", "write %25"),
        ("postgresql://u:p%@db/app", "write %25"),
    ],
)
def test_a_uri_at_fault_is_refused(uri: str, fault: str) -> None:
    _, problems = parse_uri(uri.encode())
    assert any(fault in problem for problem in problems), problems


def test_a_uri_that_is_not_text_is_refused() -> None:
    assert parse_uri(b"postgresql://\xff@db") == ({}, ["it is not UTF-8 text"])


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:kHf3/x@db/app",
        "postgresql://u:p/kHf3?kHf3=kHf3@db/app",
        "postgresql://u:p?/&kHf3@db/app?kHf3",
        "postgresql://u:kHf3@kHf3@db,kHf3/app",
        "kHf3",
    ],
)
def test_no_problem_quotes_a_piece_of_the_uri(uri: str) -> None:
    _, problems = parse_uri(uri.encode())
    assert "kHf3" not in " ".join(problems)

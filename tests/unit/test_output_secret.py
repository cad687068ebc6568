from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from hoop_operator.crd import OUTPUT_SECRET_KEYS
from hoop_operator.credentials.output import output_data, render_template

text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r\n"), min_size=1)


def data(**changes: Any) -> dict[str, str]:
    login: dict[str, Any] = {
        "host": "db.x",
        "port": 5433,
        "username": "hoopdev_shop_ro_1",
        "password": "pw",
        "database": "mydb",
        "databases": ["mydb", "otherdb"],
        "sslmode": "verify-full",
        "ca_certificate": None,
    }
    return output_data(**(login | changes))


def pgpass_fields(line: str) -> list[str]:
    fields = [""]
    characters = iter(line.removesuffix("\n"))
    for character in characters:
        if character == "\\":
            fields[-1] += next(characters)
        elif character == ":":
            fields.append("")
        else:
            fields[-1] += character
    return fields


def test_a_login_in_every_form() -> None:
    assert data(ca_certificate="PEM") == {
        "type": "postgresql",
        "provider": "hoop",
        "host": "db.x",
        "port": "5433",
        "username": "hoopdev_shop_ro_1",
        "user": "hoopdev_shop_ro_1",
        "password": "pw",
        "database": "mydb",
        "dbname": "mydb",
        "databases": "mydb,otherdb",
        "sslmode": "verify-full",
        "ca.crt": "PEM",
        "uri": "postgresql://hoopdev_shop_ro_1:pw@db.x:5433/mydb?sslmode=verify-full",
        "jdbc-uri": (
            "jdbc:postgresql://db.x:5433/mydb?user=hoopdev_shop_ro_1&password=pw&sslmode=verify-full"
        ),
        "pgpass": "db.x:5433:*:hoopdev_shop_ro_1:pw\n",
    }


def test_the_keys_are_the_contracts_and_the_ca_is_there_only_if_there_is_one() -> None:
    assert data(ca_certificate="PEM").keys() == set(OUTPUT_SECRET_KEYS)
    assert data().keys() == set(OUTPUT_SECRET_KEYS) - {"ca.crt"}


@given(username=text, password=text, database=text)
def test_libpq_reads_the_uri_back(username: str, password: str, database: str) -> None:
    parsed = conninfo_to_dict(data(username=username, password=password, database=database)["uri"])
    assert (parsed["user"], parsed["password"], parsed["dbname"]) == (username, password, database)
    assert (parsed["host"], parsed["port"], parsed["sslmode"]) == ("db.x", "5433", "verify-full")


@given(username=text, password=text, database=text)
def test_the_jdbc_uri_decodes_to_the_login(username: str, password: str, database: str) -> None:
    uri = data(username=username, password=password, database=database)["jdbc-uri"]
    parts = urlsplit(uri.removeprefix("jdbc:"))
    assert parse_qs(parts.query) == {"user": [username], "password": [password], "sslmode": ["verify-full"]}
    assert unquote(parts.path) == f"/{database}"


@given(username=text, password=text)
def test_the_pgpass_line_has_five_fields_and_is_good_for_any_database(username: str, password: str) -> None:
    line = data(username=username, password=password)["pgpass"]
    assert pgpass_fields(line) == ["db.x", "5433", "*", username, password]


def test_an_ipv6_host_is_bracketed_in_uris_and_escaped_in_pgpass() -> None:
    written = data(host="2001:db8::1")
    assert written["host"] == "2001:db8::1"
    assert conninfo_to_dict(written["uri"])["host"] == "2001:db8::1"
    assert "//[2001:db8::1]:5433/" in written["jdbc-uri"]
    assert pgpass_fields(written["pgpass"])[0] == "2001:db8::1"


def test_database_names_are_percent_encoded_so_that_a_comma_separates() -> None:
    assert data(databases=("a,b", "ü/%", "c"))["databases"] == "a%2Cb,%C3%BC%2F%25,c"


def test_a_template_is_filled_from_the_secrets_own_keys() -> None:
    template = {
        "DSN": "host=${host} port=${port} cost=$$5 $${host}",
        "JDBC": "${jdbc-uri}",
        "CA": "${ca.crt}",
        "constant": "x",
        "twice": "${user}${user}",
    }
    assert render_template(template, data(ca_certificate="PEM")) == {
        "DSN": "host=db.x port=5433 cost=$5 ${host}",
        "JDBC": data()["jdbc-uri"],
        "CA": "PEM",
        "constant": "x",
        "twice": "hoopdev_shop_ro_1" * 2,
    }


def test_a_value_with_dollars_is_not_filled_in_again() -> None:
    assert render_template({"x": "${password}"}, data(password="$$${host}")) == {"x": "$$${host}"}


@given(text)
def test_any_text_can_be_written_with_doubled_dollars(value: str) -> None:
    assert render_template({"x": value.replace("$", "$$")}, data()) == {"x": value}


@pytest.mark.parametrize("key", sorted(OUTPUT_SECRET_KEYS))
def test_a_template_may_not_override_a_key_of_the_contract(key: str) -> None:
    with pytest.raises(ValueError, match=r"spec\.secretTemplate\.data.*choose another one"):
        render_template({key: "x"}, data())


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("${HOST}", r"\$\{HOST\} is unknown; the names are database, databases, dbname, host"),
        ("${}", "is unknown"),
        ("${ host }", "is unknown"),
        ("${host", r"must be written \$\$"),
        ("cost $5", r"must be written \$\$"),
        ("$host", r"must be written \$\$"),
        ("end$", r"must be written \$\$"),
        ("$$$", r"must be written \$\$"),
        ("${ca.crt}", "there is no ca.crt; add SSLROOTCERT to the resource"),
    ],
)
def test_a_template_at_fault_is_refused_with_its_field_and_a_remedy(value: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy) as raised:
        render_template({"x": value}, data())
    assert 'spec.secretTemplate.data["x"]' in str(raised.value)


def test_all_faults_of_a_template_are_listed() -> None:
    with pytest.raises(ValueError, match="host") as raised:
        render_template({"host": "x", "a": "${nope}", "b": "$"}, data())
    for key in ("host", "a", "b"):
        assert f'data["{key}"]' in str(raised.value)


def test_a_template_that_quotes_more_than_a_secret_can_hold_is_refused() -> None:
    bundle = "x" * 100_000
    with pytest.raises(ValueError, match=r"spec\.secretTemplate\.data.*1 MiB"):
        render_template({f"k{n}": "${ca.crt}" * 6 for n in range(2)}, data(ca_certificate=bundle))
    assert render_template({"k": "${ca.crt}" * 6}, data(ca_certificate=bundle)) == {"k": bundle * 6}

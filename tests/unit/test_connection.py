import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.credentials.connection import (
    Connection,
    Endpoint,
    SslMode,
    holds_password,
    postgres_connection,
)
from hoop_operator.credentials.sources import Source
from hoop_operator.errors import ResourceFailure, ResourceReason

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMIIB\n-----END EC PRIVATE KEY-----\n"
LEAST = {"HOST": "db.example", "USER": "admin", "PASS": "hunter2"}


def connect(
    env_vars: dict[str, str], *sources: Source, namespace: str = "team", allowed_hosts: tuple[str, ...] = ()
) -> Connection:
    return postgres_connection(env_vars, sources, namespace=namespace, allowed_hosts=allowed_hosts)


def failure(
    env_vars: dict[str, str], *sources: Source, allowed_hosts: tuple[str, ...] = ()
) -> ResourceFailure:
    with pytest.raises(ResourceFailure) as raised:
        connect(env_vars, *sources, allowed_hosts=allowed_hosts)
    return raised.value


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_host_user_and_password_suffice() -> None:
    assert connect(LEAST) == Connection(
        host="db.example",
        port=5432,
        user="admin",
        password="hunter2",
        database="postgres",
        sslmode=SslMode.PREFER,
        ca_certificate=None,
        client_certificate=None,
        client_key=None,
        connect_timeout=None,
    )


def test_every_variable_is_used() -> None:
    connection = connect(
        {
            "envvar:HOST": b64("db"),
            "envvar:PORT": b64("6543"),
            "envvar:USER": b64("admin"),
            "envvar:PASS": b64("hunter2"),
            "envvar:DB": b64("app"),
            "envvar:SSLMODE": b64("verify-full"),
            "filesystem:SSLROOTCERT": b64(CERTIFICATE),
            "filesystem:SSLCERT": b64(CERTIFICATE),
            "filesystem:SSLKEY": b64(KEY),
        }
    )
    assert connection == Connection(
        host="db.team.svc",
        port=6543,
        user="admin",
        password="hunter2",
        database="app",
        sslmode=SslMode.VERIFY_FULL,
        ca_certificate=CERTIFICATE,
        client_certificate=CERTIFICATE,
        client_key=KEY,
        connect_timeout=None,
    )
    assert connection.endpoint == Endpoint("db.team.svc", 6543)


def test_nothing_shows_a_password_or_a_key() -> None:
    source = Source("Secret shop-admin", {"password": b"hunter2"})
    connection = connect({"HOST": "db", "USER": "a", "SSLCERT": CERTIFICATE, "SSLKEY": KEY}, source)
    assert connection.password == "hunter2"
    assert "hunter2" not in repr(connection) + repr(source)
    assert "PRIVATE" not in repr(connection)


def test_a_database_of_asterisk_means_postgres() -> None:
    assert connect(LEAST | {"DB": "*"}).database == "postgres"


def test_a_client_certificate_stands_in_for_the_password() -> None:
    connection = connect({"HOST": "db.x", "USER": "admin", "SSLCERT": CERTIFICATE, "SSLKEY": KEY})
    assert connection.password is None
    assert connection.client_key == KEY


@pytest.mark.parametrize(
    ("given", "lacking"), [({"SSLCERT": CERTIFICATE}, "SSLKEY"), ({"SSLKEY": KEY}, "SSLCERT")]
)
def test_half_a_client_certificate_is_missing_its_other_half(given: dict[str, str], lacking: str) -> None:
    error = failure(LEAST | given)
    assert error.reason == ResourceReason.CREDENTIALS_MISSING
    assert f"missing or empty: {lacking};" in error.message


def test_verify_ca_needs_a_ca_and_verify_full_can_do_with_the_systems() -> None:
    error = failure(LEAST | {"SSLMODE": "verify-ca"})
    assert error.reason == ResourceReason.CREDENTIALS_MISSING
    assert "missing or empty: SSLROOTCERT;" in error.message
    assert connect(LEAST | {"SSLMODE": "verify-full"}).ca_certificate is None


def test_what_does_not_exist_is_listed_beside_what_is_malformed_and_nothing_is_called_missing() -> None:
    with pytest.raises(ResourceFailure) as raised:
        postgres_connection(
            {"envvar:PASS": "_aws:s:k"}, [], absent=["Secret s is gone"], namespace="team", allowed_hosts=()
        )
    assert raised.value.reason == ResourceReason.CREDENTIALS_UNRESOLVED
    assert raised.value.message.startswith("Secret s is gone; spec.envVars")
    assert "missing" not in raised.value.message
    with pytest.raises(ResourceFailure) as raised:
        postgres_connection(
            {"PORT": "?"}, [], absent=["Secret s is gone"], namespace="team", allowed_hosts=()
        )
    assert raised.value.reason == ResourceReason.CREDENTIALS_INVALID
    assert "Secret s is gone" in raised.value.message


def test_every_missing_variable_is_named_and_where_it_was_looked_for() -> None:
    error = failure({"DB": "app"}, Source("Secret shop-admin", {}), Source("ConfigMap shop", {}))
    assert error.reason == ResourceReason.CREDENTIALS_MISSING
    assert "missing or empty: HOST, USER, PASS;" in error.message
    assert "looked in spec.envVars, Secret shop-admin, ConfigMap shop" in error.message
    for spelling in ("PGHOST", "endpoint", "username", "PGPASSWORD", "uri"):
        assert spelling in error.message


@pytest.mark.parametrize("name", ["HOST", "USER", "PASS"])
def test_an_empty_value_is_missing(name: str) -> None:
    error = failure(LEAST | {name: ""})
    assert error.reason == ResourceReason.CREDENTIALS_MISSING
    assert f"missing or empty: {name};" in error.message


def test_an_empty_optional_value_leaves_the_default() -> None:
    assert connect(LEAST | {"PORT": "", "SSLMODE": "", "DB": ""}) == connect(LEAST)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("PORT", "0", "from 1 to 65535"),
        ("PORT", "65536", "from 1 to 65535"),
        ("PORT", "5432\n", "ends with a line break"),
        ("PORT", "x\n", "from 1 to 65535"),
        ("HOST", "db.example\r\n", "ends with a line break"),
        ("PORT", "+5432", "from 1 to 65535"),
        ("PORT", "٥٤٣٢", "from 1 to 65535"),
        ("PORT", "5432,5433", "from 1 to 65535"),
        ("SSLMODE", "REQUIRE", "disable, allow, prefer, require, verify-ca, verify-full"),
        ("SSLMODE", "on", "disable, allow, prefer, require, verify-ca, verify-full"),
        ("SSLROOTCERT", "/etc/ssl/ca.crt", "contents of a PEM file"),
        ("SSLROOTCERT", "system", "contents of a PEM file"),
        ("SSLROOTCERT", KEY, "contents of a PEM file"),
        ("SSLCERT", "./client.crt", "contents of a PEM file"),
        ("SSLKEY", "/secrets/client.key", "contents of a PEM file"),
        ("SSLKEY", CERTIFICATE, "contents of a PEM file"),
        ("SSLKEY", KEY.replace("EC", "ENCRYPTED"), "without a passphrase"),
        ("HOST", "/var/run/postgresql", "one host name or address"),
        ("HOST", "a.x,b.x", "one host name or address"),
        ("HOST", "db.example ", "one host name or address"),
        ("HOST", "169.254.169.254", "link-local"),
        ("HOST", "2852039166", "link-local"),
        ("USER", "ad\0min", "NUL"),
        ("PASS", "hun\0ter", "NUL"),
        ("DB", "\0", "NUL"),
    ],
)
def test_a_bad_value_is_invalid_names_its_key_and_the_remedy_but_not_the_value(
    name: str, value: str, remedy: str
) -> None:
    error = failure(LEAST | {"SSLCERT": CERTIFICATE, "SSLKEY": KEY} | {name: value})
    assert error.reason == ResourceReason.CREDENTIALS_INVALID
    assert error.message.startswith(f"{name} ({name} in spec.envVars): ")
    assert remedy in error.message
    assert value not in error.message or len(value) < 3


@pytest.mark.parametrize("name", ["HOST", "USER", "PASS", "DB", "PORT", "SSLMODE", "SSLROOTCERT"])
def test_a_value_that_is_not_utf8_is_invalid(name: str) -> None:
    error = failure(LEAST | {name: ""}, Source("Secret s", {name: b"\xff\xfe"}))
    assert error.reason == ResourceReason.CREDENTIALS_INVALID
    assert error.message == f"{name} ({name} in Secret s): the value is not UTF-8 text"


def test_all_classes_of_faults_are_listed_and_the_gravest_gives_the_reason() -> None:
    invalid = failure({"envvar:PORT": "?", "SSLMODE": "x", "envvar:PASS": "_aws:s:k"})
    assert invalid.reason == ResourceReason.CREDENTIALS_INVALID
    for part in ('spec.envVars["envvar:PORT"]', "SSLMODE", 'spec.envVars["envvar:PASS"]', "HOST, USER;"):
        assert part in invalid.message
    unresolved = failure({"envvar:PASS": "_aws:s:k"})
    assert unresolved.reason == ResourceReason.CREDENTIALS_UNRESOLVED
    assert "missing or empty: HOST, USER;" in unresolved.message


@pytest.mark.parametrize("value", ["?", "_aws:s:k"])
@pytest.mark.parametrize("name", ["HOST", "PGHOST", "host", "URI"])
def test_a_variable_that_could_not_be_decoded_is_not_called_missing_too(name: str, value: str) -> None:
    error = failure({f"envvar:{name}": value, "USER": "admin", "PASS": "hunter2"})
    assert "missing" not in error.message


@pytest.mark.parametrize(
    ("allowed_hosts", "host"),
    [(("*.svc",), "db"), (("10.0.0.0/8",), "10.9.8.7"), (("*.example", "x"), "db.example")],
)
def test_a_host_on_the_operators_list_is_allowed(allowed_hosts: tuple[str, ...], host: str) -> None:
    assert connect(LEAST | {"HOST": host}, allowed_hosts=allowed_hosts).user == "admin"


def test_a_host_off_the_operators_list_is_invalid_and_names_the_setting() -> None:
    error = failure(LEAST, allowed_hosts=("*.svc", "10.0.0.0/8"))
    assert error.reason == ResourceReason.CREDENTIALS_INVALID
    assert "HOOP_ALLOWED_HOSTS" in error.message


def test_no_list_allows_a_link_local_host() -> None:
    error = failure(LEAST | {"HOST": "169.254.1.1"}, allowed_hosts=("169.254.0.0/16", "*"))
    assert "link-local" in error.message


@pytest.mark.parametrize(
    ("env_vars", "holds"),
    [
        ({"PASS": "x"}, True),
        ({"envvar:PASS": b64("x")}, True),
        ({"PGPASSWORD": "x"}, True),
        ({"URI": "postgresql://u:x@db/app"}, True),
        ({"URI": "postgresql://u@db/app"}, False),
        ({"envvar:PASS": "_aws:s:k"}, False),
        ({"HOST": "db", "PASS": ""}, False),
    ],
)
def test_a_password_in_env_vars_itself_is_noticed(env_vars: dict[str, str], holds: bool) -> None:
    assert holds_password(env_vars) is holds


@given(
    st.dictionaries(
        st.sampled_from(
            ["HOST", "PORT", "USER", "PASS", "DB", "SSLMODE", "SSLKEY", "uri", "endpoint", "ca.crt"]
        ),
        st.text(min_size=1).map(lambda text: f"kHf3{text}kHf3".encode()),
    )
)
def test_no_failure_quotes_a_value(data: dict[str, bytes]) -> None:
    assert "kHf3" not in failure({"PORT": "kHf3"}, Source("Secret s", data)).message

import pytest

from hoop_operator.credentials.connection import Connection, SslMode, postgres_connection
from hoop_operator.credentials.output import output_data
from hoop_operator.credentials.sources import Source
from hoop_operator.errors import ResourceFailure, ResourceReason

CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"


def secret(name: str = "s", prefix: str = "", **data: str) -> Source:
    return source(data, name, prefix)


def source(data: dict[str, str], name: str = "s", prefix: str = "") -> Source:
    return Source(f"Secret {name}", {key: value.encode() for key, value in data.items()}, prefix)


def connect(*sources: Source, **env_vars: str) -> Connection:
    return postgres_connection(env_vars, sources, namespace="team", allowed_hosts=())


CLOUDNATIVE_PG_SUPERUSER = {
    "username": "postgres",
    "user": "postgres",
    "password": "pw",
    "dbname": "*",
    "host": "shop-rw",
    "port": "5432",
    "pgpass": "shop-rw:5432:*:postgres:pw\n",
    "uri": "postgresql://postgres:pw@shop-rw.team:5432/*",
    "jdbc-uri": "jdbc:postgresql://shop-rw.team:5432/*?password=pw&user=postgres",
    "fqdn-uri": "postgresql://postgres:pw@shop-rw.team.svc.cluster.local:5432/*",
    "fqdn-jdbc-uri": "jdbc:postgresql://shop-rw.team.svc.cluster.local:5432/*?password=pw&user=postgres",
}
CLOUDNATIVE_PG_APP = CLOUDNATIVE_PG_SUPERUSER | {
    "username": "app",
    "user": "app",
    "dbname": "app",
    "uri": "postgresql://app:pw@shop-rw.team:5432/app",
}
CROSSPLANE = {
    "endpoint": "shop.abc.eu-west-1.rds.amazonaws.com",
    "port": "5433",
    "username": "master",
    "password": "pw",
}
UPBOUND_RDS = {
    "endpoint": "shop.abc.eu-west-1.rds.amazonaws.com:5433",
    "address": "shop.abc.eu-west-1.rds.amazonaws.com",
    "attribute.password": "pw",
    "username": "master",
    "password": "pw",
}
SERVICE_BINDING = {
    "type": "postgresql",
    "provider": "bitnami",
    "host": "shop.other.svc",
    "port": "5432",
    "username": "app",
    "password": "pw",
    "database": "app",
    "uri": "postgresql://app:pw@shop.other.svc:5432/app?sslmode=require",
}
CRUNCHY = {
    "dbname": "app",
    "host": "shop-primary.pgo.svc",
    "jdbc-uri": "jdbc:postgresql://shop-primary.pgo.svc:5432/app",
    "password": "pw",
    "port": "5432",
    "uri": "postgresql://app:pw@shop-primary.pgo.svc:5432/app",
    "user": "app",
    "verifier": "SCRAM-SHA-256$4096:x",
}
AIVEN = {
    "PGHOST": "shop.aivencloud.com",
    "PGPORT": "12345",
    "PGDATABASE": "defaultdb",
    "PGUSER": "avnadmin",
    "PGPASSWORD": "pw",
    "PGSSLMODE": "require",
    "DATABASE_URI": "postgres://avnadmin:pw@shop.aivencloud.com:12345/defaultdb?sslmode=require",
}
IMAGE = {"POSTGRES_HOST": "db.x", "POSTGRES_USER": "app", "POSTGRES_PASSWORD": "pw", "POSTGRES_DB": "app"}


@pytest.mark.parametrize(
    ("data", "host", "port", "user", "database", "sslmode"),
    [
        (CLOUDNATIVE_PG_SUPERUSER, "shop-rw.team.svc", 5432, "postgres", "postgres", "prefer"),
        (CLOUDNATIVE_PG_APP, "shop-rw.team.svc", 5432, "app", "app", "prefer"),
        (CROSSPLANE, "shop.abc.eu-west-1.rds.amazonaws.com", 5433, "master", "postgres", "prefer"),
        (UPBOUND_RDS, "shop.abc.eu-west-1.rds.amazonaws.com", 5433, "master", "postgres", "prefer"),
        (SERVICE_BINDING, "shop.other.svc", 5432, "app", "app", "require"),
        (CRUNCHY, "shop-primary.pgo.svc", 5432, "app", "app", "prefer"),
        (AIVEN, "shop.aivencloud.com", 12345, "avnadmin", "defaultdb", "require"),
        (IMAGE, "db.x", 5432, "app", "app", "prefer"),
        (
            {"uri": "postgres://app:pw@db.x:6543/app?sslmode=verify-full"},
            "db.x",
            6543,
            "app",
            "app",
            "verify-full",
        ),
        ({"uri": "postgresql://app:pw@[::1]:6543"}, "::1", 6543, "app", "postgres", "prefer"),
    ],
)
def test_a_secret_of_another_tool_works_as_it_is(
    data: dict[str, str], host: str, port: int, user: str, database: str, sslmode: str
) -> None:
    connection = connect(source(data))
    assert connection == Connection(
        host=host,
        port=port,
        user=user,
        password="pw",
        database=database,
        sslmode=SslMode(sslmode),
        ca_certificate=None,
        client_certificate=None,
        client_key=None,
        connect_timeout=None,
    )


@pytest.mark.parametrize(
    ("data", "user"),
    [
        ({"username": "postgres", "password": "pw"}, "postgres"),
        ({"postgres-password": "pw"}, "given"),
        ({"username": "basic", "password": "pw"}, "basic"),
    ],
)
def test_a_secret_with_the_login_alone_needs_only_the_host_beside_it(data: dict[str, str], user: str) -> None:
    login = {} if "username" in data else {"USER": user}
    connection = connect(source(data), HOST="db", **login)
    assert (connection.host, connection.user, connection.password) == ("db.team.svc", user, "pw")


def test_the_output_secret_of_a_plan_works_as_it_is() -> None:
    data = output_data(
        host="db.x",
        port=5433,
        username="r",
        password="p:/@w",
        database="a/b",
        databases=["a/b"],
        sslmode="verify-full",
        ca_certificate=CA,
    )
    connection = connect(source(data))
    assert connection.password == "p:/@w"
    assert connection.database == "a/b"
    assert connection.sslmode == SslMode.VERIFY_FULL
    assert connection.ca_certificate == CA


def test_certificates_of_a_tls_secret_are_found_beside_the_login() -> None:
    tls = source({"ca.crt": CA, "tls.crt": CA, "tls.key": KEY})
    connection = connect(tls, HOST="db", USER="streaming")
    assert (connection.ca_certificate, connection.client_certificate, connection.client_key) == (CA, CA, KEY)
    assert connection.password is None


def test_within_one_secret_name_beats_lower_case_beats_pgname_beats_uri() -> None:
    data = {"uri": "postgresql://uri:uri@uri.x:1/uri", "PGHOST": "pg.x", "host": "lower.x", "HOST": "name.x"}
    login = {"user": "u", "password": "p"}
    for key, host in (("HOST", "name.x"), ("host", "lower.x"), ("PGHOST", "pg.x"), ("uri", "uri.x")):
        assert connect(source(data | login)).host == host
        del data[key]


def test_the_latest_source_wins_in_whatever_spelling_it_has_the_variable() -> None:
    first = source({"HOST": "first.x", "USER": "first", "PASS": "first", "PORT": "1"}, "first")
    last = source({"uri": "postgresql://last:last@last.x/last"}, "last")
    connection = connect(first, last)
    assert (connection.host, connection.user, connection.password) == ("last.x", "last", "last")
    assert (connection.port, connection.database) == (1, "last")
    assert connect(last, first).host == "first.x"


def test_env_vars_win_over_every_source_in_any_spelling() -> None:
    data = source({"HOST": "s.x", "USER": "s", "PASS": "s"})
    assert connect(data, HOST="e.x").host == "e.x"
    assert connect(data, PGHOST="e.x", user="e").host == "e.x"
    assert connect(data, PGHOST="e.x", user="e").user == "e"


def test_an_empty_value_gives_way_to_the_next_source() -> None:
    first = source({"HOST": "first.x", "USER": "u", "PASS": "p"})
    assert connect(first, source({"HOST": ""}), HOST="").host == "first.x"


def test_a_prefix_is_put_in_front_before_a_key_is_looked_up() -> None:
    pg = source({"HOST": "db.x", "USER": "u", "PASSWORD": "p"}, prefix="PG")
    assert (connect(pg).host, connect(pg).user, connect(pg).password) == ("db.x", "u", "p")
    with pytest.raises(ResourceFailure) as raised:
        connect(source({"HOST": "db.x", "USER": "u", "PASS": "p"}, prefix="MAIN_"))
    assert raised.value.reason == ResourceReason.CREDENTIALS_MISSING


def test_an_endpoint_gives_host_and_port_below_the_keys_of_their_own() -> None:
    login = {"username": "u", "password": "p"}
    assert connect(source(login | {"endpoint": "e.x:6000"})).endpoint == ("e.x", 6000)
    assert connect(source(login | {"endpoint": "e.x"})).endpoint == ("e.x", 5432)
    assert connect(source(login | {"endpoint": "[2001:db8::1]:6000"})).endpoint == ("2001:db8::1", 6000)
    assert connect(source(login | {"endpoint": "2001:db8::1"})).endpoint == ("2001:db8::1", 5432)
    assert connect(source(login | {"endpoint": "e.x:6000", "port": "7000", "host": "h.x"})).endpoint == (
        "h.x",
        7000,
    )


def test_the_uri_gives_the_connect_timeout_and_zero_sets_none() -> None:
    assert connect(secret(uri="postgresql://u:p@db.x?connect_timeout=7")).connect_timeout == 7
    assert connect(secret(uri="postgresql://u:p@db.x?connect_timeout=0")).connect_timeout is None


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:kHf3@db.x/app?service=x",
        "postgresql://u:kHf3@db.x/app?passfile=x",
        "postgresql://u:kHf3@db.x/app?sslkey=/path",
        "postgresql://u:kHf3@db.x/app?connect_timeout=-1",
        "postgresql://u:kHf3@db.x/app?sslmode=maybe",
        "postgresql://u:kHf3@%2Fvar%2Frun/app",
        "postgresql://u:kHf3@/app",
        "postgresql://u:kHf3@a.x,b.x/app",
        "postgresql://u:kHf3@db.x:port/app",
        "postgresql://u:kHf3%00@db.x/app",
        "postgresql://u:kHf3%ff@db.x/app",
        "postgresql://u:kHf3@169.254.169.254/app",
        "postgresql://u:kHf3@[fe80::1%25eth0]/app",
        "mysql://u:kHf3@db.x/app",
    ],
)
def test_a_bad_uri_is_invalid_names_its_secret_and_quotes_nothing(uri: str) -> None:
    with pytest.raises(ResourceFailure) as raised:
        connect(secret("shop-admin", uri=uri))
    assert raised.value.reason == ResourceReason.CREDENTIALS_INVALID
    assert "uri in Secret shop-admin" in raised.value.message
    assert "kHf3" not in raised.value.message


def test_a_bad_uri_is_invalid_even_where_other_keys_give_all_its_parts() -> None:
    with pytest.raises(ResourceFailure, match="parameter other than sslmode and connect_timeout"):
        connect(secret(uri="postgresql://u:p@db.x/app?sslkey=/path"), HOST="db.x", USER="u", PASS="p")

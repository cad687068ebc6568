import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.credentials.hosts import connection_host, host_allowed, is_link_local

SPELLINGS_OF_METADATA_SERVICE = [
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "169.0xfe.0251.254",
    "::ffff:169.254.169.254",
    "::FFFF:a9fe:a9fe",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "FE80::1%eth0",
    "[fe80::1]",
    "[::ffff:169.254.169.254]",
    "febf:ffff::1",
]


@pytest.mark.parametrize("address", SPELLINGS_OF_METADATA_SERVICE)
def test_a_link_local_host_is_refused_in_every_spelling(address: str) -> None:
    assert is_link_local(address)
    with pytest.raises(ValueError, match=r"link-local|zone"):
        connection_host(address, "team")


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "::1",
        "::",
        "fec0::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "127.1",
        "db.example",
        "localhost",
        "",
        "169.254.example",
        "a\0b",
        "é",
    ],
)
def test_other_addresses_and_names_are_not_link_local(address: str) -> None:
    assert not is_link_local(address)


@given(st.integers(0xA9FE0000, 0xA9FEFFFF), st.sampled_from(["{}", "{:#x}", "{:#X}", "0{:o}"]))
def test_any_number_in_the_link_local_range_is_recognised(number: int, form: str) -> None:
    assert is_link_local(form.format(number))
    assert is_link_local(socket.inet_ntoa(number.to_bytes(4, "big")))


@pytest.mark.parametrize(
    ("host", "completed"),
    [
        ("db", "db.team.svc"),
        ("cluster-rw", "cluster-rw.team.svc"),
        ("db.other", "db.other"),
        ("db.example.com", "db.example.com"),
        ("db.example.com.", "db.example.com."),
        ("localhost", "localhost"),
        ("LocalHost", "LocalHost"),
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("my_db.example", "my_db.example"),
    ],
)
def test_a_host_is_completed(host: str, completed: str) -> None:
    assert connection_host(host, "team") == completed


@pytest.mark.parametrize(
    "host",
    [
        "a,b",
        "a.x,b.x",
        "/var/run/postgresql",
        "@abstract",
        "db:5432",
        "db.x\n",
        " db.x",
        "db x",
        "d\0b.x",
        "a..b",
        "%2Fvar%2Frun",
        "2001:db8::1%eth0",
        "[db]",
        "db/x",
        "db?x",
        ".",
        "é.example",
        "a" * 64 + ".x",
        "a." * 127,
    ],
)
def test_what_is_not_one_host_is_refused_without_quoting_it(host: str) -> None:
    with pytest.raises(ValueError, match="it must be one host name or address") as raised:
        connection_host(host, "team")
    assert host not in str(raised.value) or len(host) < 3


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "010.0.0.1", "10.0.0.1."])
def test_an_odd_spelling_of_an_ipv4_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="four decimal numbers"):
        connection_host(host, "team")


@pytest.mark.parametrize(
    ("host", "allowed_hosts"),
    [
        ("anything.example", []),
        ("db.example", ["db.example"]),
        ("DB.example.", ["db.EXAMPLE"]),
        ("a.b.team.svc", ["10.0.0.0/8", "*.team.svc"]),
        ("10.1.2.3", ["10.0.0.0/8"]),
        ("10.1.2.3", ["10.1.2.3"]),
        ("10.1.2.3", ["10.1.2.*"]),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"]),
        ("2001:db8::1", ["2001:db8::/32"]),
        ("10.1.2.3", ["10.1.2.9/8"]),
        ("::1", ["::1"]),
    ],
)
def test_a_host_on_the_list_is_allowed(host: str, allowed_hosts: list[str]) -> None:
    assert host_allowed(host, allowed_hosts)


@pytest.mark.parametrize(
    ("host", "allowed_hosts"),
    [
        ("evil.example", ["db.example"]),
        ("db.example.evil", ["db.example"]),
        ("11.1.2.3", ["10.0.0.0/8"]),
        ("db.team.svc", ["10.0.0.0/8"]),
        ("::ffff:11.1.2.3", ["10.0.0.0/8"]),
        ("2001:db9::1", ["2001:db8::/32", "0.0.0.0/0"]),
    ],
)
def test_a_host_off_the_list_is_refused(host: str, allowed_hosts: list[str]) -> None:
    assert not host_allowed(host, allowed_hosts)

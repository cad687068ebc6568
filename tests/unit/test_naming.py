import re
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hoop_operator.naming import (
    connection_secret_name,
    default_secret_name,
    env_vars_secret_name,
    is_connection_secret_name,
    role_name,
    role_secret_name,
)

resource_names = st.text(min_size=1, max_size=128)
labels = st.text(min_size=1, max_size=44).filter(lambda text: re.search("[A-Za-z0-9]", text))


@pytest.mark.parametrize(
    ("resource_name", "label", "expected"),
    [
        ("shop", "ro", "hoopdev_shop_ro_6b689a2d"),
        ("shop", "R O!", "hoopdev_shop_r_o_5087e2b9"),
        ("shop", "ro-1", "hoopdev_shop_ro_1_7bcd71ee"),
        ("my-postgres", "ro", "hoopdev_my_postgres_ro_4da1f169"),
        (
            "a-very-long-resource-name-that-goes-past-the-limit",
            "analyst",
            "hoopdev_a_very_long_resource_name_that_goes_pa_analyst_e34cc00c",
        ),
        ("!!!", "ro", "hoopdev_x_ro_bfe7cb33"),
        ("shop", "été", "hoopdev_shop_t_c706208e"),
    ],
)
def test_role_names_are_those_of_hoop(resource_name: str, label: str, expected: str) -> None:
    assert role_name(resource_name, label) == expected


@pytest.mark.parametrize("label", ["___", "", "ÄÖÜ", "-"])
def test_a_label_without_ascii_letter_or_digit_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match=r"the label has none of A-Z, a-z and 0-9"):
        role_name("shop", label)


def test_the_longest_label_leaves_one_byte_for_the_resource() -> None:
    name = role_name("shop", "a" * 44)
    assert name.startswith("hoopdev_s_aaaa")
    assert len(name) == 63


def test_a_label_that_leaves_no_byte_for_the_resource_is_refused_with_the_excess() -> None:
    with pytest.raises(ValueError, match=r"the label is too long .* shorten it by 1 or more"):
        role_name("shop", "a" * 45)
    with pytest.raises(ValueError, match=r"the label is too long .* shorten it by 16 or more"):
        role_name("shop", "a" * 60)


def test_a_cut_that_ends_at_an_underscore_drops_it() -> None:
    assert role_name("ab-cdef", "a" * 42).startswith("hoopdev_ab_aaaa")


@pytest.mark.parametrize(
    ("label", "readable"),
    [
        ("RO\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}x", "roix"),
        ("RO\N{KELVIN SIGN}x", "rokx"),
        ("RO\N{ANGSTROM SIGN}x", "ro_x"),
        ("RO\N{GREEK CAPITAL LETTER SIGMA}", "ro"),
    ],
)
def test_lower_casing_maps_one_code_point_to_one(label: str, readable: str) -> None:
    assert re.fullmatch(rf"hoopdev_shop_{readable}_[0-9a-f]{{8}}", role_name("shop", label))


def test_only_two_code_points_beyond_ascii_have_an_ascii_lower_case() -> None:
    beyond_ascii = map(chr, range(0x80, sys.maxunicode + 1))
    assert [c for c in beyond_ascii if re.search("[a-z0-9]", c.lower())] == ["\u0130", "\u212a"]


@given(resource_names, labels)
def test_every_role_name_fits_postgresql_and_needs_no_quotes(resource_name: str, label: str) -> None:
    name = role_name(resource_name, label)
    assert len(name.encode()) <= 63
    assert re.fullmatch(r"hoopdev_[a-z0-9]+(_[a-z0-9]+)*_[0-9a-f]{8}", name)


@given(st.tuples(resource_names, labels), st.tuples(resource_names, labels))
def test_other_names_give_another_role(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(":".join(one) != ":".join(other))
    assert role_name(*one) != role_name(*other)


def test_names_that_join_to_the_same_text_share_a_hash_by_construction() -> None:
    assert role_name("shop", "ro:x")[-8:] == role_name("shop:ro", "x")[-8:]


def test_secret_names() -> None:
    assert connection_secret_name("shop", "reader") == "shop-reader-connection"
    assert default_secret_name("shop-ro") == "shop-ro-credentials"


@pytest.mark.parametrize("resource", ["db", "a-connection"])
def test_of_a_resources_secrets_only_those_of_its_roles_are_named_so(resource: str) -> None:
    assert is_connection_secret_name(connection_secret_name(resource, "ro"), resource)
    others = (
        env_vars_secret_name(resource),
        f"{env_vars_secret_name(resource)}-0a1b2c3d4e",
        role_secret_name(resource, "ro"),
        connection_secret_name("another", "ro"),
    )
    assert not any(is_connection_secret_name(name, resource) for name in others)

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.naming import (
    env_vars_secret_name,
    plan_object_name,
    resource_object_name,
    role_secret_name,
)

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

almost_plain = st.text(alphabet="aA0-._ é", min_size=1, max_size=12)
names = st.one_of(
    almost_plain,
    st.text(min_size=1, max_size=128),
    # What another name was given, and what comes close to that.
    almost_plain.map(resource_object_name),
    st.from_regex(r"[a-c]{0,2}-[0-9a-f]{32}", fullmatch=True),
)
roles = st.one_of(almost_plain, st.text(min_size=1, max_size=44))


@given(names, names)
def test_two_names_never_have_one_object(one: str, other: str) -> None:
    assert (resource_object_name(one) == resource_object_name(other)) == (one == other)


@given(st.tuples(names, roles), st.tuples(names, roles))
def test_two_roles_never_have_one_plan(one: tuple[str, str], other: tuple[str, str]) -> None:
    plans = [plan_object_name(resource_object_name(name), role) for name, role in (one, other)]
    assert (plans[0] == plans[1]) == (one == other)


@given(names, roles)
def test_every_object_has_a_name_that_kubernetes_takes_and_so_have_its_secrets(name: str, role: str) -> None:
    resource = resource_object_name(name)
    plan = plan_object_name(resource, role)
    for given_name in (resource, plan, f"{plan}-credentials", env_vars_secret_name(resource)):
        assert SUBDOMAIN.fullmatch(given_name)
        assert len(given_name) <= 253


@pytest.mark.parametrize("name", ["shop", "my-postgres", "db.example.com", "x" * 63, "0"])
def test_a_name_that_kubernetes_takes_is_kept(name: str) -> None:
    assert resource_object_name(name) == name
    assert plan_object_name(name, "ro") == f"{name}.ro"
    assert role_secret_name(name, "app") == f"{name}.app-secret"


@pytest.mark.parametrize("name", ["My Shop!", "shop_1", "-", "a..b", "x" * 64, "shop\n", f"shop-{'0' * 32}"])
def test_any_other_name_gets_a_readable_part_and_a_hash(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{32}", resource_object_name(name))
    assert resource_object_name(name) != name


def test_a_name_has_the_same_object_for_ever() -> None:
    assert resource_object_name("My Shop!") == "my-shop-e9494a7b52ed3acc54001c4321c9b191"
    assert plan_object_name("shop", "R O!") == "shop-r-o-ada9fe8a2f22501302d5bf8143317f39"

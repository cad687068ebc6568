"""What a plan asks for, and all that can be told against it without asking a server."""

import re
from typing import Any

import pytest

from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.naming import role_name
from hoop_operator.planner.model import Adoption, Identity
from hoop_operator.planner.scopes import Scope
from hoop_operator.reconcile.desired import desired_role, first_database, secret_contents
from hoop_operator.reconcile.objects import Plan, Resource

CONNECTION = Connection(
    host="db.team.svc",
    port=5432,
    user="admin",
    password="unseen",
    database="main",
    sslmode=SslMode.REQUIRE,
    ca_certificate=None,
    client_certificate=None,
    client_key=None,
    connect_timeout=None,
)


def metadata(name: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "generation": 1,
        "resourceVersion": "1",
        "annotations": annotations or {},
    }


def resource(**spec: Any) -> Resource:
    whole = {"type": "database", "subtype": "postgres", "envVars": {"HOST": "db"}, **spec}
    return Resource.parse({"metadata": metadata("pg"), "spec": whole})


def managed(annotations: dict[str, str] | None = None, **spec: Any) -> Plan:
    whole = {
        "resourceRef": {"name": "pg"},
        "type": "managed",
        "role": "ro",
        "scopes": ["shop", "shop.reports"],
        "privileges": ["SELECT"],
        **spec,
    }
    return Plan.parse({"metadata": metadata("ro", annotations), "spec": whole})


def external(**spec: Any) -> Plan:
    whole = {
        "resourceRef": {"name": "pg"},
        "type": "external",
        "role": "ext",
        "sourceRole": "readers",
        **spec,
    }
    return Plan.parse({"metadata": metadata("ext"), "spec": whole})


def refusal(plan: Plan, resource: Resource) -> PlanFailure:
    with pytest.raises(PlanFailure) as raised:
        desired_role(plan, resource, "default")
    return raised.value


def test_a_managed_plan_asks_for_its_scopes_and_privileges_under_a_name_and_an_identity() -> None:
    desired = desired_role(managed(sourceRole="ignored"), resource(resourceName="My DB"), "blue")
    assert desired.name == role_name("My DB", "ro")
    assert desired.identity.comment == "hoop.dev/role-plan: blue/team/ro"
    assert desired.scopes == {Scope("shop", "public"), Scope("shop", "reports")}
    assert desired.privileges == {"SELECT"}
    assert desired.source_role is None
    assert desired.manages_grants


def test_an_external_plan_asks_for_its_source_role_alone() -> None:
    desired = desired_role(external(scopes=["shop"], privileges=["DELETE"]), resource(), "default")
    assert (desired.source_role, desired.scopes, desired.privileges) == ("readers", frozenset(), frozenset())
    assert not desired.manages_grants


def test_plans_are_for_postgres_only() -> None:
    failure = refusal(managed(), resource(subtype="mysql"))
    assert failure.reason is PlanReason.UNSUPPORTED_RESOURCE
    assert "database/mysql" in failure.message


@pytest.mark.parametrize(
    ("plan", "guardrails", "field"),
    [
        (managed(rotationInterval="30d"), None, "spec.rotationInterval"),
        *(
            (managed({"hoop.dev/adopt": value}), None, "<namespace>/<plan>")
            for value in ("", "yes", "True", "shop/", "/old", "default/shop/old", "shop/Old", "shop/old\n")
        ),
        (managed(scopes=[]), None, "spec.scopes"),
        (managed(privileges=[]), None, "spec.privileges"),
        (managed(scopes=["shop.pg_temp"]), None, "spec.scopes"),
        (managed(role="-"), None, "spec.role"),
        (external(sourceRole=None), None, "spec.sourceRole"),
        (external(sourceRole="read\0ers"), None, "spec.sourceRole: the name holds a NUL character"),
    ],
)
def test_what_is_wrong_or_not_there_yet_is_refused_by_the_name_of_its_field(
    plan: Plan, guardrails: dict[str, Any] | None, field: str
) -> None:
    failure = refusal(plan, resource(guardrails=guardrails))
    assert failure.reason is PlanReason.INVALID_SPEC
    assert field in failure.message


def test_all_that_is_wrong_is_said_at_once() -> None:
    plan = managed(rotationInterval="30d", scopes=["a.pg_catalog", "shop"], privileges=["DELETE"])
    failure = refusal(plan, resource(guardrails={"privileges": ["SELECT"], "scopes": ["other"]}))
    assert failure.reason is PlanReason.INVALID_SPEC
    for part in ("pg_catalog", "spec.rotationInterval", "spec.privileges DELETE", "spec.scopes shop.public"):
        assert part in failure.message


@pytest.mark.parametrize(
    ("guardrails", "allowed"),
    [
        ({}, True),
        ({"scopes": ["shop.*"]}, True),
        ({"scopes": ["shop"]}, False),
        ({"scopes": ["shop", "*.reports"]}, True),
        ({"scopes": ["SHOP.*"]}, False),
        ({"scopes": []}, False),
        ({"privileges": ["SELECT", "INSERT"]}, True),
        ({"privileges": ["INSERT"]}, False),
        ({"privileges": []}, False),
        ({"sourceRoles": []}, True),
    ],
)
def test_guardrails_bound_a_managed_plan(guardrails: dict[str, Any], allowed: bool) -> None:
    bounded = resource(guardrails=guardrails)
    if allowed:
        desired_role(managed(), bounded, "default")
    else:
        assert refusal(managed(), bounded).reason is PlanReason.GUARDRAIL_VIOLATION


@pytest.mark.parametrize(
    ("listed", "allowed", "dangerous_allowed"),
    [
        (None, True, False),
        (["readers"], True, True),
        (["read*"], True, False),
        (["Readers"], False, False),
        ([], False, False),
    ],
)
def test_a_source_role_may_be_listed_by_glob_and_a_dangerous_one_by_its_literal_name_only(
    listed: list[str] | None, allowed: bool, dangerous_allowed: bool
) -> None:
    bounded = resource(guardrails={"sourceRoles": listed} if listed is not None else None)
    if not allowed:
        assert "spec.guardrails.sourceRoles" in refusal(external(), bounded).message
        return
    desired = desired_role(external(), bounded, "default")
    assert ("readers" in desired.dangerous_source_roles_allowed) is dangerous_allowed


def test_the_secret_leads_to_the_first_scope_and_lists_each_database_once() -> None:
    plan = managed(scopes=["shop.reports", '"my.db"', "shop"])
    data = secret_contents(plan, resource(), CONNECTION, "the_role", "pw")
    assert first_database(plan, CONNECTION) == data["database"] == "shop"
    assert data["databases"] == "shop,my.db"
    assert (data["host"], data["port"], data["sslmode"]) == ("db.team.svc", "5432", "require")
    assert "unseen" not in str(data)


def test_the_secret_of_an_external_plan_leads_to_the_resources_database() -> None:
    data = secret_contents(external(), resource(), CONNECTION, "the_role", "pw")
    assert data["database"] == data["databases"] == "main"


def test_what_is_advertised_stands_in_the_secret_field_by_field() -> None:
    advertised = resource(advertise={"host": "pooler", "sslMode": "verify-full"})
    data = secret_contents(managed(), advertised, CONNECTION, "the_role", "pw")
    assert (data["host"], data["port"], data["sslmode"]) == ("pooler", "5432", "verify-full")
    assert "@pooler:5432/shop?sslmode=verify-full" in data["uri"]


def test_a_template_that_cannot_be_filled_in_is_an_invalid_spec() -> None:
    plan = managed(secretTemplate={"data": {"CA": "${ca.crt}"}})
    with pytest.raises(PlanFailure, match=re.escape('spec.secretTemplate.data["CA"]')) as raised:
        secret_contents(plan, resource(), CONNECTION, "the_role", "pw")
    assert raised.value.reason is PlanReason.INVALID_SPEC


def test_what_a_plan_may_take_over_is_what_its_annotation_says() -> None:
    def adoption(annotations: dict[str, str]) -> Adoption | None:
        return desired_role(managed(annotations), resource(), "blue").adoption

    assert adoption({}) is None
    assert adoption({"hoop.dev/adopt": "true"}) == Adoption()
    assert adoption({"hoop.dev/adopt": "shop/old.plan"}) == Adoption(Identity("blue", "shop", "old.plan"))

"""What the process keeps in mind of the cluster, and what it lets go of."""

from typing import Any

import pytest

from hoop_operator.credentials.connection import Connection, Endpoint, SslMode
from hoop_operator.errors import ResourceReason
from hoop_operator.reconcile.memory import Memory
from hoop_operator.reconcile.objects import FINALIZER, Key, Plan, Reading, Resource
from hoop_operator.reconcile.register import Registration

PG = Key("team", "pg")
RO = Key("team", "ro")
CONNECTION = Connection(
    host="db",
    port=5432,
    user="admin",
    password="pw",
    database="postgres",
    sslmode=SslMode.PREFER,
    ca_certificate=None,
    client_certificate=None,
    client_key=None,
    connect_timeout=None,
)


def metadata(key: Key, version: int, uid: str, **more: Any) -> dict[str, Any]:
    return {
        "namespace": key.namespace,
        "name": key.name,
        "uid": uid,
        "generation": 1,
        "resourceVersion": str(version),
        **more,
    }


def plan(
    key: Key = RO, *, version: int = 1, uid: str = "u", resource: Key = PG, held: bool = False, **spec: Any
) -> Plan:
    body = {
        "metadata": metadata(key, version, uid, finalizers=[FINALIZER] if held else []),
        "spec": {
            "resourceRef": {"name": resource.name, "namespace": resource.namespace},
            "type": "external",
            "role": "ro",
            "sourceRole": "readers",
            **spec,
        },
    }
    return Plan.parse(body)


def resource(
    key: Key = PG, *, version: int = 1, uid: str = "r", reads: str = "admin", **spec: Any
) -> Resource:
    whole = {
        "type": "database",
        "subtype": "postgres",
        "envVarsFrom": [{"secretRef": {"name": reads}}],
        **spec,
    }
    return Resource.parse({"metadata": metadata(key, version, uid), "spec": whole})


def test_an_older_version_of_an_object_does_not_replace_a_newer_one() -> None:
    memory = Memory()
    assert memory.see_plan(plan(version=9))
    assert not memory.see_plan(plan(version=8))
    assert memory.plans[RO].resource_version == 9
    assert memory.see_resource(resource(version=100))
    assert not memory.see_resource(resource(version=99))
    assert memory.resources[PG].resource_version == 100


def test_an_object_made_again_replaces_its_predecessor_with_all_its_relations() -> None:
    memory = Memory()
    memory.see_plan(plan(uid="old", secretName="a"))
    memory.see_plan(plan(uid="new", secretName="b", resource=Key("team", "other")))
    assert memory.plans_of(PG) == []
    assert [found.uid for found in memory.plans_of(Key("team", "other"))] == ["new"]
    assert memory.plans_with_secret(Key("team", "a")) == frozenset()
    assert memory.plans_with_secret(Key("team", "b")) == {RO}


def test_a_secret_that_two_plans_name_concerns_both_until_one_of_them_goes() -> None:
    memory = Memory()
    second = Key("team", "second")
    memory.see_plan(plan(secretName="shared"))
    memory.see_plan(plan(second, uid="2", secretName="shared"))
    assert memory.plans_with_secret(Key("team", "shared")) == {RO, second}
    memory.forget_plan(second)
    assert memory.plans_with_secret(Key("team", "shared")) == {RO}
    assert memory.plans_with_secret(Key("elsewhere", "shared")) == frozenset()


def test_users_of_a_resource_are_the_plans_that_have_begun_on_its_server() -> None:
    memory = Memory()
    memory.see_plan(plan(held=True))
    memory.see_plan(plan(Key("far", "away"), uid="2", held=True))
    memory.see_plan(plan(Key("team", "new"), uid="3"))
    assert [found.key for found in memory.users_of(PG)] == [Key("far", "away"), RO]
    assert len(memory.plans_of(PG)) == 3


def test_a_plan_that_was_refused_from_the_start_uses_nothing_whatever_finalizer_it_has() -> None:
    memory = Memory()
    refusal = {"conditions": [{"type": "Ready", "status": "False", "reason": "ReferenceNotAllowed"}]}
    never = plan(Key("far", "never"), held=True)
    later = plan(Key("far", "later"), uid="2", held=True)
    memory.see_plan(Plan.parse({**never.body, "status": refusal}))
    memory.see_plan(Plan.parse({**later.body, "status": refusal | {"role": "hoopdev_pg_ro_12345678"}}))
    assert [found.key for found in memory.users_of(PG)] == [later.key]


@pytest.mark.parametrize("end", ["it is gone", "another has its name"])
def test_how_to_reach_a_server_is_kept_for_the_plans_that_a_resource_leaves_behind_and_no_longer(
    end: str,
) -> None:
    memory = Memory()
    memory.see_resource(resource())
    memory.see_plan(plan())
    memory.last_good[PG] = CONNECTION
    memory.forget_resource(PG)
    assert memory.last_good[PG] == CONNECTION
    assert memory.former_resources[PG].uid == "r"
    if end == "it is gone":
        memory.forget_plan(RO)
    else:
        memory.see_plan(plan(version=2, uid="another", resource=Key("team", "elsewhere")))
    assert memory.last_good == {}
    assert memory.former_resources == {}


def test_nothing_is_kept_of_a_resource_that_no_plan_refers_to() -> None:
    memory = Memory()
    memory.see_resource(resource())
    memory.last_good[PG] = CONNECTION
    memory.forget_resource(PG)
    assert memory.last_good == {}
    assert memory.former_resources == {}
    assert memory.readers_of(Reading("Secret", "team", "admin")) == frozenset()


def test_readers_of_a_secret_follow_the_spec_and_count_the_connection_secrets() -> None:
    memory = Memory()
    roles = [{"name": "web", "type": "application", "subtype": "tcp", "secret": {"X": "y"}}]
    memory.see_resource(resource(roles=roles))
    assert memory.readers_of(Reading("Secret", "team", "admin")) == {PG}
    assert memory.readers_of(Reading("Secret", "team", "pg-web-connection")) == {PG}
    memory.see_resource(resource(version=2, reads="other"))
    assert memory.readers_of(Reading("Secret", "team", "admin")) == frozenset()
    assert memory.readers_of(Reading("Secret", "team", "pg-web-connection")) == frozenset()
    assert memory.readers_of(Reading("Secret", "team", "other")) == {PG}


def test_resources_of_one_server_are_found_by_its_endpoint() -> None:
    memory = Memory()
    memory.see_resource(resource())
    memory.registrations[PG] = Registration(resource(), ResourceReason.REGISTERED, connection=CONNECTION)
    broken = Key("team", "broken")
    memory.registrations[broken] = Registration(resource(broken), ResourceReason.CREDENTIALS_MISSING)
    assert list(memory.resources_at(Endpoint("db", 5432))) == [PG]
    assert list(memory.resources_at(Endpoint("db", 5433))) == []

"""Which failed plans a clock tries again, and which are left alone until something that is watched changes."""

from collections.abc import Sequence
from typing import Any

import pytest

from hoop_operator.errors import PlanFailure, PlanReason, ResourceReason
from hoop_operator.reconcile.objects import Plan, Resource
from hoop_operator.reconcile.register import Registration
from hoop_operator.reconcile.retries import is_tried_again
from hoop_operator.reconcile.run import Run
from hoop_operator.settings import Settings


def metadata(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "uid": name, "generation": 1, **more}


def plan(**more: Any) -> Plan:
    spec = {
        "resourceRef": {"name": "pg", "namespace": "infra"},
        "type": "managed",
        "role": "ro",
        "scopes": ["shop"],
        "privileges": ["SELECT"],
    }
    return Plan.parse({"metadata": metadata("shop", "ro", **more), "spec": spec})


def resource(**allowed_namespaces: Any) -> Resource:
    spec = {"type": "database", "subtype": "postgres", "allowedNamespaces": allowed_namespaces}
    return Resource.parse({"metadata": metadata("infra", "pg"), "spec": {**spec, "envVars": {"HOST": "db"}}})


def failed(reason: PlanReason, **more: Any) -> Run:
    run = Run(plan(**more), "spec", new_input=False)
    run.fail(PlanFailure(reason, "why"))
    return run


@pytest.mark.parametrize(
    ("reason", "tried_again"),
    [
        (PlanReason.INVALID_SPEC, False),
        (PlanReason.GUARDRAIL_VIOLATION, False),
        (PlanReason.UNSUPPORTED_RESOURCE, False),
        (PlanReason.RESOURCE_NOT_FOUND, False),
        (PlanReason.RESOURCE_NOT_READY, False),
        (PlanReason.REFERENCE_NOT_ALLOWED, False),
        (PlanReason.DATABASE_NOT_FOUND, True),
        (PlanReason.SECRET_CONFLICT, True),
        (PlanReason.DANGEROUS_SOURCE_ROLE, True),
        (PlanReason.SERVER_UNREACHABLE, True),
        (PlanReason.APPLY_FAILED, True),
    ],
)
def test_what_the_server_can_cure_is_tried_again_and_what_a_change_cures_is_not(
    reason: PlanReason, tried_again: bool
) -> None:
    assert is_tried_again(failed(reason), resource(), None, Settings()) is tried_again


@pytest.mark.parametrize(
    ("known", "watched"),
    [
        pytest.param(
            resource(**{"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}), (), id="labels"
        ),
        pytest.param(None, ("shop",), id="a resource in a namespace that is not watched"),
    ],
)
def test_a_reference_is_tried_again_where_nothing_tells_that_it_is_allowed_by_now(
    known: Resource | None, watched: Sequence[str]
) -> None:
    assert is_tried_again(
        failed(PlanReason.REFERENCE_NOT_ALLOWED), known, None, Settings(watch_namespaces=[*watched])
    )


def test_a_deletion_without_credentials_is_tried_again_because_the_namespace_may_go() -> None:
    registration = Registration(resource(), ResourceReason.CREDENTIALS_UNRESOLVED)
    deleted = failed(PlanReason.RESOURCE_NOT_READY, deletionTimestamp="2026-01-01T00:00:00Z")
    assert is_tried_again(deleted, resource(), registration, Settings())


def test_a_spec_at_odds_with_what_is_on_the_server_is_tried_again() -> None:
    run = failed(PlanReason.INVALID_SPEC)
    run.statements = ()
    assert is_tried_again(run, resource(), None, Settings())

"""What a look ahead finds against a plan without asking a server: the same as a run would."""

from collections.abc import Iterable
from typing import Any

import pytest

from hoop_operator.errors import PlanReason
from hoop_operator.reconcile.dry_run import Preview, preview_plans
from hoop_operator.reconcile.manifests import read_manifests
from hoop_operator.settings import Settings

AGENT = "6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b11"


def resource(spec: str = "", *, subtype: str = "postgres", host: str = "envVars: {HOST: db}") -> str:
    return (
        "{apiVersion: hoop.dev/v1alpha1, kind: HoopResource, metadata: {name: pg, namespace: data}, "
        f"spec: {{type: database, subtype: {subtype}, {host}, {spec}}}}}"
    )


def plan(spec: str = "", *, namespace: str = "data", scopes: str = "[shop]") -> str:
    return (
        f"{{apiVersion: hoop.dev/v1alpha1, kind: HoopRolePlan, metadata: {{name: ro, namespace: {namespace}}}, "
        "spec: {resourceRef: {name: pg, namespace: data}, type: managed, role: ro, "
        f"scopes: {scopes}, privileges: [SELECT], {spec}}}}}"
    )


def namespace(labels: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: team, labels: {labels}}}}}"


async def look_ahead(*documents: str, **settings: Any) -> Preview:
    manifests = read_manifests({"file": "\n---\n".join(documents)}, "default")
    assert manifests.problems == []
    (preview,) = await preview_plans(manifests, Settings.model_validate(settings))
    assert preview.statements == ()
    return preview


def reasons(preview: Preview) -> Iterable[PlanReason]:
    return [reason for reason, _ in preview.problems]


def told(preview: Preview) -> str:
    return "; ".join(message for _, message in preview.problems)


async def test_a_plan_without_its_resource_says_which() -> None:
    preview = await look_ahead(plan())
    assert reasons(preview) == [PlanReason.RESOURCE_NOT_FOUND]
    assert "HoopResource pg does not exist in namespace data" in told(preview)


async def test_credentials_that_are_in_no_file_are_named() -> None:
    preview = await look_ahead(plan(), resource(host="envVarsFrom: [{secretRef: {name: admin}}]"))
    assert reasons(preview) == [PlanReason.RESOURCE_NOT_READY]
    assert "CredentialsUnresolved: spec.envVarsFrom: Secret admin does not exist in namespace data" in told(
        preview
    )


async def test_references_are_followed_as_far_as_the_settings_here_allow_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_DB", '{"user": "admin"}')
    referring = resource(host="envVars: {HOST: db, 'envvar:USER': '_envjson:SHOP_DB:user'}")
    refused = told(await look_ahead(plan(), referring))
    assert "CredentialsUnresolved: spec.envVars" in refused
    assert "resources of namespace data may not refer to the environment variable SHOP_DB" in refused
    followed = told(await look_ahead(plan(), referring, allowed_envjson={"data": ["SHOP_*"]}))
    assert "CredentialsMissing: missing or empty: PASS; looked in" in followed


async def test_all_that_is_wrong_with_a_plan_and_its_resource_is_found_at_once() -> None:
    guarded = resource("guardrails: {privileges: [INSERT]}, roles: [{name: web, secret: {'envvar:X': '?'}}]")
    preview = await look_ahead(plan("secretName: pg-web-connection"), guarded)
    assert reasons(preview) == [
        PlanReason.RESOURCE_NOT_READY,
        PlanReason.SECRET_CONFLICT,
        PlanReason.GUARDRAIL_VIOLATION,
    ]
    for part in ("USER", "spec.roles[web].secret", "pg-web-connection", "spec.privileges SELECT"):
        assert part in told(preview)


async def test_plans_are_for_postgres_only() -> None:
    preview = await look_ahead(plan(), resource(subtype="mysql"))
    assert reasons(preview) == [PlanReason.UNSUPPORTED_RESOURCE]


async def test_a_resource_of_another_instance_is_not_judged() -> None:
    preview = await look_ahead(plan(), resource(f"agentId: {AGENT}"))
    assert reasons(preview) == [PlanReason.RESOURCE_NOT_READY]
    assert told(preview).endswith(f"set HOOP_AGENT_ID={AGENT}")


async def test_a_suspended_plan_has_neither_problems_nor_statements() -> None:
    preview = await look_ahead(plan("suspend: true"))
    assert preview.suspended
    assert preview.problems == []


async def test_a_selector_of_namespaces_is_judged_by_the_namespace_in_the_files() -> None:
    selecting = resource(
        "allowedNamespaces: {from: Selector, selector: {matchLabels: {tier: gold, kubernetes.io/metadata.name: team}}}"
    )
    asking = plan(namespace="team")
    for documents, expected, message in (
        ((), PlanReason.REFERENCE_NOT_ALLOWED, "no file has the Namespace team; add it"),
        ((namespace("{tier: iron}"),), PlanReason.REFERENCE_NOT_ALLOWED, "namespace team may not refer to"),
        ((namespace("{tier: gold}"),), PlanReason.RESOURCE_NOT_READY, "CredentialsMissing"),
    ):
        preview = await look_ahead(asking, selecting, *documents)
        assert reasons(preview) == [expected]
        assert message in told(preview)


async def test_a_resource_of_another_namespace_that_allows_none_is_not_shown() -> None:
    preview = await look_ahead(plan(namespace="team"), resource())
    assert reasons(preview) == [PlanReason.REFERENCE_NOT_ALLOWED]
    assert preview.connection is None

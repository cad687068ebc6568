"""What the API server itself refuses and takes, by the CRDs alone: no operator runs here."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes import client, config

from hoop_operator.crd import (
    GROUP,
    HOOP_RESOURCE,
    HOOP_ROLE_PLAN,
    VERSION,
    ComputedPlan,
    Condition,
    Connection,
    HistoryEntry,
    HoopResourceStatus,
    HoopRolePlanStatus,
    Outcome,
    ServerInfo,
    ServiceBinding,
)
from hoop_operator.crd.schema import CustomResource
from local.stack import Stack

pytestmark = pytest.mark.version_independent

MANAGED = {
    "resourceRef": {"name": "my-postgres"},
    "type": "managed",
    "role": "ro",
    "scopes": ["mydb", "otherdb.public"],
    "privileges": ["SELECT", "INSERT"],
}
EXTERNAL = {
    "resourceRef": {"name": "my-postgres"},
    "type": "external",
    "role": "reader",
    "sourceRole": "pg_read_all_data",
}
POSTGRES = {
    "type": "database",
    "subtype": "postgres",
    "envVarsFrom": [{"secretRef": {"name": "my-postgres-admin"}}],
}
LABELS_OF_OTHERS = "belong to other programs: remove them; found: "


def changed(spec: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the spec with some fields set, those that are None taken away."""
    return {name: value for name, value in (spec | fields).items() if value is not None}


def template(**fields: Any) -> dict[str, Any]:
    return changed(MANAGED, secretTemplate=fields)


def env(**variables: str) -> dict[str, Any]:
    return changed(POSTGRES, envVars={key.replace("__", ":"): value for key, value in variables.items()})


def shared(**fields: Any) -> dict[str, Any]:
    return changed(POSTGRES, allowedNamespaces=fields)


def selected_by(**requirement: Any) -> dict[str, Any]:
    return shared(**{"from": "Selector", "selector": {"matchExpressions": [requirement]}})


BAD_PLANS = {
    "no resource": (changed(MANAGED, resourceRef=None), "spec.resourceRef: Required value"),
    "resource without a name": (changed(MANAGED, resourceRef={}), "spec.resourceRef.name: Required value"),
    "resource name in capitals": (
        changed(MANAGED, resourceRef={"name": "My-Postgres"}),
        "a name has lower-case letters",
    ),
    "resource namespace with a dot": (
        changed(MANAGED, resourceRef={"name": "db", "namespace": "a.b"}),
        "a label has lower-case letters",
    ),
    "no type": (changed(MANAGED, type=None), "spec.type: Required value"),
    "unknown type": (changed(MANAGED, type="Managed"), 'supported values: "managed", "external"'),
    "no role": (changed(MANAGED, role=None), "spec.role: Required value"),
    "empty role": (changed(MANAGED, role=""), "role needs at least one ASCII letter or digit"),
    "role without a letter or digit": (
        changed(MANAGED, role="_é-"),
        "role needs at least one ASCII letter or digit",
    ),
    "role of 45 characters": (
        changed(MANAGED, role="r" * 45),
        "spec.role: Too long: may not be more than 44",
    ),
    "managed without scopes": (
        changed(MANAGED, scopes=None),
        "spec.scopes: Required value: scopes is needed",
    ),
    "managed without privileges": (
        changed(MANAGED, privileges=None),
        "spec.privileges: Required value: privileges is needed",
    ),
    "empty scopes": (changed(MANAGED, scopes=[]), "scopes must not be empty"),
    "empty privileges": (changed(MANAGED, privileges=[]), "privileges must not be empty"),
    "empty scopes of an external plan": (changed(EXTERNAL, scopes=[]), "or leave the field out"),
    "external without a source role": (
        changed(EXTERNAL, sourceRole=None),
        "spec.sourceRole: Required value: sourceRole is needed for type external",
    ),
    "scope named twice": (
        changed(MANAGED, scopes=["mydb", "mydb"]),
        'spec.scopes[1]: Duplicate value: "mydb"',
    ),
    "scope that is empty": (changed(MANAGED, scopes=[""]), 'a scope is "database" or "database.schema"'),
    "scope without a database": (changed(MANAGED, scopes=[".public"]), "spec.scopes[0]: Invalid value"),
    "scope that ends in a dot": (changed(MANAGED, scopes=["mydb."]), "spec.scopes[0]: Invalid value"),
    "scope with an open quote": (changed(MANAGED, scopes=['"my.db']), "stands in double quotes"),
    "privilege in lower case": (
        changed(MANAGED, privileges=["select"]),
        'spec.privileges[0]: Unsupported value: "select": supported values: "SELECT"',
    ),
    "privilege twice": (
        changed(MANAGED, privileges=["SELECT", "SELECT"]),
        "spec.privileges[1]: Duplicate value",
    ),
    "privilege that plans do not have": (changed(MANAGED, privileges=["MAINTAIN"]), "Unsupported value"),
    "rotation in days": (changed(MANAGED, rotationInterval="30d"), "such as 720h or 1h30m"),
    "rotation below a minute": (changed(MANAGED, rotationInterval="59s"), "rotationInterval is at least 1m"),
    "rotation of nothing": (changed(MANAGED, rotationInterval=""), "rotationInterval is at least 1m"),
    "rotation below zero": (changed(MANAGED, rotationInterval="-720h"), "rotationInterval is at least 1m"),
    "secret name in capitals": (changed(MANAGED, secretName="RO"), "spec.secretName: Invalid value"),
    "unknown approval": (changed(MANAGED, approval="manual"), 'supported values: "Automatic", "Manual"'),
    "unknown deletion policy": (changed(MANAGED, deletionPolicy="Orphan"), '"Delete", "Retain"'),
    "suspend that is no boolean": (changed(MANAGED, suspend="yes"), "spec.suspend"),
    "misspelt field": (changed(MANAGED, scope=["mydb"]), 'unknown field "spec.scope"'),
    "service account token": (
        template(type="kubernetes.io/service-account-token"),
        "secretTemplate.type is Opaque, kubernetes.io/basic-auth or begins with servicebinding.io/",
    ),
    "label of kubernetes.io": (
        template(labels={"app.kubernetes.io/name": "x"}),
        LABELS_OF_OTHERS + "app.kubernetes.io/name",
    ),
    "label of a Helm release": (template(labels={"owner": "helm"}), "the label owner=helm is how Helm finds"),
    "name of a Helm release": (
        changed(MANAGED, secretName="sh.helm.release.v1.shop.v2"),
        "secretName must not begin with sh.helm.release.",
    ),
    "label of k8s.io": (template(labels={"k8s.io/x": "x"}), LABELS_OF_OTHERS + "k8s.io/x"),
    "annotation of Argo CD": (
        template(annotations={"argocd.argoproj.io/sync-wave": "1"}),
        LABELS_OF_OTHERS + "argocd.argoproj.io/sync-wave",
    ),
    "annotation of our own": (
        template(annotations={"hoop.dev/adopt": "true"}),
        LABELS_OF_OTHERS + "hoop.dev/adopt",
    ),
    "label that is no name": (
        template(labels={"my team": "x"}),
        "such as team, or example.com/team; found: my team",
    ),
    "label value with a space": (template(labels={"team": "a b"}), "a label's value has letters"),
    "key that the Secret has": (
        template(data={"password": "x"}),
        "secretTemplate.data cannot redefine what the Secret has anyway: choose another key; found: password",
    ),
    "key that is none": (template(data={"a/b": "x"}), "a key of secretTemplate.data has letters"),
    "quoting an unknown key": (
        template(data={"DSN": "${hostname}"}),
        "stands for one of the keys type, provider",
    ),
    "lonely dollar": (template(data={"PRICE": "5$"}), "a dollar is written $$"),
}

BAD_RESOURCES = {
    "no spec at all": (None, "spec: Required value"),
    "no type": (changed(POSTGRES, type=None), "spec.type: Required value"),
    "unknown type": (changed(POSTGRES, type="db"), 'supported values: "database", "application", "custom"'),
    "unknown database": (
        changed(POSTGRES, subtype="postgresql"),
        "spec.subtype: Invalid value: subtype of a database is one of postgres, mysql",
    ),
    "application subtype in capitals": (
        changed(POSTGRES, type="application", subtype="SSH"),
        "subtype is a lower-case label such as tcp, ssh",
    ),
    "agent id that is no uuid": (changed(POSTGRES, agentId="agent-1"), "agentId is a UUID such as"),
    "empty resource name": (changed(POSTGRES, resourceName=""), "spec.resourceName"),
    "resource name too long": (changed(POSTGRES, resourceName="x" * 129), "may not be more than 128"),
    "no credentials": (changed(POSTGRES, envVarsFrom=None), "envVars or envVarsFrom is needed"),
    "empty credentials": (changed(POSTGRES, envVarsFrom=[], envVars={}), "envVars or envVarsFrom is needed"),
    "credentials from nowhere": (
        changed(POSTGRES, envVarsFrom=[{}]),
        "exactly one of secretRef and configMapRef",
    ),
    "credentials from two places at once": (
        changed(POSTGRES, envVarsFrom=[{"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}}]),
        "make two sources two entries",
    ),
    "prefix with a dash": (
        changed(POSTGRES, envVarsFrom=[{"secretRef": {"name": "a"}, "prefix": "my-"}]),
        "prefix has letters, digits and '_' only",
    ),
    "variable that begins with a digit": (env(**{"1HOST": "x"}), "does not begin with a digit; found: 1HOST"),
    "variable with a dash": (env(**{"envvar:MY-HOST": "eA=="}), "found: envvar:MY-HOST"),
    "unknown prefix": (env(env__HOST="eA=="), "a key is NAME, envvar:NAME or filesystem:NAME"),
    "variable twice, bare and envvar": (env(HOST="x", envvar__HOST="eA=="), "found: envvar:HOST"),
    "variable twice, bare and filesystem": (env(KEY="x", filesystem__KEY="eA=="), "found: filesystem:KEY"),
    "variable twice, envvar and filesystem": (
        env(envvar__KEY="eA==", filesystem__KEY="eA=="),
        "a NAME may stand here once, whatever its prefix",
    ),
    "advertised URL": (
        changed(POSTGRES, advertise={"host": "tcp://pool"}),
        "advertise.host is one host name",
    ),
    "advertised host list": (changed(POSTGRES, advertise={"host": "a,b"}), "advertise.host is one host name"),
    "advertised port 0": (changed(POSTGRES, advertise={"port": 0}), "should be greater than or equal to 1"),
    "unknown TLS mode": (changed(POSTGRES, advertise={"sslMode": "on"}), '"verify-ca", "verify-full"'),
    "role without a name": (changed(POSTGRES, roles=[{}]), "spec.roles[0].name: Required value"),
    "two roles of one name": (changed(POSTGRES, roles=[{"name": "a"}, {"name": "a"}]), "Duplicate value"),
    "role's secret with a variable twice": (
        changed(POSTGRES, roles=[{"name": "a", "secret": {"X": "1", "envvar:X": "MQ=="}}]),
        "spec.roles[0].secret: Invalid value: a NAME may stand here once",
    ),
    "role's source that names two": (
        changed(
            POSTGRES,
            roles=[
                {
                    "name": "a",
                    "secretFrom": [{"secretRef": {"name": "x"}, "configMapRef": {"name": "y"}}],
                }
            ],
        ),
        "spec.roles[0].secretFrom[0]: Invalid value: an entry has exactly one of secretRef and configMapRef",
    ),
    "role's source in another namespace": (
        changed(
            POSTGRES,
            roles=[{"name": "a", "secretFrom": [{"secretRef": {"name": "x", "namespace": "other"}}]}],
        ),
        'unknown field "spec.roles[0].secretFrom[0].secretRef.namespace"',
    ),
    "role with more sources than four": (
        changed(POSTGRES, roles=[{"name": "a", "secretFrom": [{"secretRef": {"name": "x"}}] * 5}]),
        "spec.roles[0].secretFrom: Too many: 5: must have at most 4 items",
    ),
    "role's unknown database": (
        changed(POSTGRES, roles=[{"name": "a", "type": "database", "subtype": "db2"}]),
        "spec.roles[0].subtype: Invalid value: subtype of a database is one of",
    ),
    "role name with no room for its Secret": (
        changed(POSTGRES, resourceName="db", roles=[{"name": "r" * 63}]),
        "too long for the name of the Secret",
        "m" * 200,
    ),
    "object's name too long for a resource": (POSTGRES, "spec.resourceName: Required value", "m" * 129),
    "unknown source of namespaces": (
        shared(**{"from": "any"}),
        'supported values: "Same", "All", "Selector"',
    ),
    "selector that is missing": (shared(**{"from": "Selector"}), "selector is needed with from: Selector"),
    "selector that selects all": (shared(**{"from": "Selector", "selector": {}}), "or write from: All"),
    "selector without effect": (
        shared(selector={"matchLabels": {"team": "a"}}),
        "selector has a meaning with from: Selector only",
    ),
    "unknown operator": (
        selected_by(key="team", operator="Equals"),
        '"In", "NotIn", "Exists", "DoesNotExist"',
    ),
    "In without values": (
        selected_by(key="team", operator="In"),
        "values is needed with the operators In and NotIn",
    ),
    "Exists with values": (
        selected_by(key="team", operator="Exists", values=["a"]),
        "values does not go with the operators Exists and DoesNotExist",
    ),
    "guardrail on an unknown privilege": (
        changed(POSTGRES, guardrails={"privileges": ["ALL"]}),
        'spec.guardrails.privileges[0]: Unsupported value: "ALL"',
    ),
    "guardrail glob without a database": (changed(POSTGRES, guardrails={"scopes": [".*"]}), "a scope is"),
}

GOOD_PLANS = {
    "the least of a managed plan": MANAGED,
    "the least of an external plan": EXTERNAL,
    "fields that do not apply are let pass": changed(EXTERNAL, scopes=["mydb"], privileges=["SELECT"]),
    "a source role on a managed plan is let pass": changed(MANAGED, sourceRole="x"),
    "odd but legal names": changed(
        MANAGED,
        role="R O! é",
        scopes=['"my.db".public', '"a""b".s', "Ünï.Çödé", "a.b.c", "with space", "tab\tnew\nline.s"],
    ),
    "44 characters": changed(MANAGED, role="é" * 43 + "x"),
    "every privilege": changed(
        MANAGED,
        privileges=[
            *("EXECUTE", "CREATE", "TRIGGER", "REFERENCES", "TRUNCATE"),
            *("DELETE", "UPDATE", "INSERT", "SELECT"),
        ],
    ),
    "128 scopes": changed(MANAGED, scopes=[f"db{number}.{'s' * 63}" for number in range(128)]),
    "another namespace": changed(MANAGED, resourceRef={"name": "db.shared", "namespace": "data-team"}),
    "rotation of one minute": changed(MANAGED, rotationInterval="60s"),
    "rotation of years": changed(MANAGED, rotationInterval="87600h0m1s"),
    "every option": changed(
        MANAGED,
        rotatePassword=True,
        secretName="my.secret-1",
        approval="Manual",
        deletionPolicy="Retain",
        suspend=True,
        secretTemplate={
            "type": "servicebinding.io/mysql",
            "labels": {"team": "", "example.com/team": "a.b_c-d"},
            "annotations": {"reloader.stakater.com/match": "true", "mykubernetes.io/note": "any text: ✓"},
            "data": {"DSN": "postgres://${user}:$$${host}/${ca.crt}", ".pgpass": "${pgpass}\n"},
        },
    ),
}

GOOD_RESOURCES = {
    "the least of a database": POSTGRES,
    "a literal password": changed(env(HOST="db", PASS="x"), envVarsFrom=None),
    "the API's own syntax": env(envvar__HOST="ZGI=", filesystem__SSLROOTCERT="eA==", envvar___a1="_aws:s:k"),
    "empty envVars beside a Secret": changed(POSTGRES, envVars={}),
    "several sources": changed(
        POSTGRES,
        envVarsFrom=[
            {"configMapRef": {"name": "endpoint"}, "prefix": ""},
            {"secretRef": {"name": "a.b"}, "prefix": "_PG"},
        ],
    ),
    "anything else": changed(POSTGRES, type="custom", subtype="my-thing-2"),
    "a name that no object could have": changed(POSTGRES, resourceName="!!! My Postgres ✓"),
    "a capital UUID": changed(POSTGRES, agentId="6F1C9A52-3A0E-4D0F-9A53-0A3F2F0D8B11"),
    "an IPv6 address": changed(
        POSTGRES, advertise={"host": "fd00::1", "port": 65535, "sslMode": "verify-full"}
    ),
    "guardrails that allow nothing": changed(
        POSTGRES, guardrails={"privileges": [], "scopes": [], "sourceRoles": []}
    ),
    "guardrails of globs": changed(
        POSTGRES,
        guardrails={
            "privileges": ["SELECT"],
            "scopes": ["*", 'team_*."a.*"'],
            "sourceRoles": ["app_*", "rds_superuser"],
            "approval": "Manual",
        },
    ),
    "a selector": shared(
        **{
            "from": "Selector",
            "selector": {
                "matchLabels": {"team": "a"},
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]},
                    {"key": "env", "operator": "Exists"},
                ],
            },
        }
    ),
    "roles": changed(
        POSTGRES,
        roles=[
            {"name": "app", "command": ["psql", ""], "secret": {"X": "", "filesystem:Y": "eA=="}},
            {"name": "bastion", "type": "application", "subtype": "ssh"},
            {
                "name": "worker",
                "secretFrom": [
                    {"configMapRef": {"name": "places"}, "prefix": "AT_"},
                    {"secretRef": {"name": "tokens"}},
                ],
            },
        ],
    ),
}


class Api:
    """The custom objects of one namespace."""

    def __init__(self, objects: client.CustomObjectsApi, namespace: str) -> None:
        self.objects = objects
        self.namespace = namespace

    def create(
        self, resource: CustomResource, spec: dict[str, Any] | None, *, name: str, dry_run: bool = False
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": resource.kind,
            "metadata": {"name": name},
        }
        if spec is not None:
            body["spec"] = spec
        return self._answer(
            self.objects.create_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                resource.plural,
                body,
                field_validation="Strict",
                dry_run="All" if dry_run else None,
            )
        )

    def patch_spec(self, resource: CustomResource, name: str, change: dict[str, Any]) -> dict[str, Any]:
        return self._answer(
            self.objects.patch_namespaced_custom_object(
                GROUP, VERSION, self.namespace, resource.plural, name, {"spec": change}
            )
        )

    def patch_status(self, resource: CustomResource, name: str, status: dict[str, Any]) -> dict[str, Any]:
        return self._answer(
            self.objects.patch_namespaced_custom_object_status(
                GROUP,
                VERSION,
                self.namespace,
                resource.plural,
                name,
                {"status": status},
                field_validation="Strict",
            )
        )

    def names(self, resource: CustomResource, field_selector: str) -> list[str]:
        found = self._answer(
            self.objects.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, resource.plural, field_selector=field_selector
            )
        )
        return [item["metadata"]["name"] for item in found["items"]]

    @staticmethod
    def _answer(response: object) -> dict[str, Any]:
        assert isinstance(response, dict)
        return response


@pytest.fixture(scope="module")
def objects(stack: Stack) -> Iterator[client.CustomObjectsApi]:
    kubeconfig = str(stack.kubeconfig)
    with config.new_client_from_config(kubeconfig) as connection:  # type: ignore[no-untyped-call]  # it has no types
        yield client.CustomObjectsApi(connection)


@pytest.fixture
def api(objects: client.CustomObjectsApi, namespace: str) -> Api:
    return Api(objects, namespace)


def refusal(caught: pytest.ExceptionInfo[client.ApiException]) -> str:
    assert caught.value.status in (400, 422)
    assert caught.value.body is not None
    message: str = json.loads(caught.value.body)["message"]
    return message


BAD = [
    pytest.param(resource, *case, id=f"{resource.kind}: {title}")
    for resource, table in ((HOOP_ROLE_PLAN, BAD_PLANS), (HOOP_RESOURCE, BAD_RESOURCES))
    for title, case in ((title, case if len(case) == 3 else (*case, "bad")) for title, case in table.items())
]

GOOD = [
    pytest.param(resource, spec, id=f"{resource.kind}: {title}")
    for resource, table in ((HOOP_ROLE_PLAN, GOOD_PLANS), (HOOP_RESOURCE, GOOD_RESOURCES))
    for title, spec in table.items()
]


@pytest.mark.parametrize(("resource", "spec", "told", "name"), BAD)
def test_the_api_server_refuses(
    objects: client.CustomObjectsApi,
    resource: CustomResource,
    spec: dict[str, Any] | None,
    told: str,
    name: str,
) -> None:
    with pytest.raises(client.ApiException) as caught:
        Api(objects, "default").create(resource, spec, name=name, dry_run=True)
    assert told in refusal(caught)


@pytest.mark.parametrize(("resource", "spec"), GOOD)
def test_the_api_server_takes_it_as_it_was_written(
    objects: client.CustomObjectsApi, resource: CustomResource, spec: dict[str, Any]
) -> None:
    created = Api(objects, "default").create(resource, spec, name="good", dry_run=True)
    assert created["spec"] == spec


def test_a_field_that_a_template_left_empty_counts_as_absent(objects: client.CustomObjectsApi) -> None:
    spec = POSTGRES | {"envVars": None, "roles": None, "advertise": {"host": "pool", "port": None}}
    created = Api(objects, "default").create(HOOP_RESOURCE, spec, name="good", dry_run=True)
    assert created["spec"] == POSTGRES | {"advertise": {"host": "pool"}}


@pytest.mark.parametrize(("resource", "spec"), GOOD)
def test_the_models_read_what_the_api_server_takes(resource: CustomResource, spec: dict[str, Any]) -> None:
    read = resource.spec.model_validate(spec).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert read == spec


def test_a_refused_password_is_not_quoted(objects: client.CustomObjectsApi) -> None:
    with pytest.raises(client.ApiException) as caught:
        Api(objects, "default").create(
            HOOP_RESOURCE, env(PASS="s3cret", envvar__PASS="czNjcmV0"), name="bad", dry_run=True
        )
    assert "found: envvar:PASS" in refusal(caught)
    assert "s3cret" not in str(caught.value)
    assert "czNjcmV0" not in str(caught.value)


@pytest.mark.parametrize(
    ("resource", "spec", "change", "told"),
    [
        (HOOP_ROLE_PLAN, MANAGED, {"resourceRef": {"name": "other"}}, "resourceRef cannot be changed"),
        (HOOP_ROLE_PLAN, MANAGED, {"resourceRef": {"namespace": "x"}}, "resourceRef cannot be changed"),
        (HOOP_ROLE_PLAN, MANAGED, {"type": "external", "sourceRole": "x"}, "type cannot be changed"),
        (
            HOOP_ROLE_PLAN,
            MANAGED,
            {"role": "rw"},
            "role cannot be changed: delete the object and create it anew",
        ),
        (HOOP_ROLE_PLAN, MANAGED, {"scopes": None}, "scopes is needed for type managed"),
        (HOOP_RESOURCE, POSTGRES, {"type": "custom"}, "type cannot be changed"),
        (HOOP_RESOURCE, POSTGRES, {"subtype": "mysql"}, "subtype cannot be changed"),
        (
            HOOP_RESOURCE,
            POSTGRES,
            {"resourceName": "new"},
            "resourceName cannot be changed, added or removed",
        ),
        (
            HOOP_RESOURCE,
            changed(POSTGRES, resourceName="old"),
            {"resourceName": None},
            "resourceName cannot be changed, added or removed",
        ),
        (
            HOOP_RESOURCE,
            changed(POSTGRES, resourceName="old"),
            {"resourceName": "new"},
            "resourceName cannot be changed, added or removed",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) and "resourceRef" not in value else None,
)
def test_what_names_derive_from_stays(
    api: Api, resource: CustomResource, spec: dict[str, Any], change: dict[str, Any], told: str
) -> None:
    api.create(resource, spec, name="kept")
    with pytest.raises(client.ApiException) as caught:
        api.patch_spec(resource, "kept", change)
    assert told in refusal(caught)


def test_everything_else_may_change(api: Api) -> None:
    api.create(HOOP_ROLE_PLAN, MANAGED, name="plan")
    change = {"scopes": ["third"], "privileges": ["DELETE"], "secretName": "other", "suspend": True}
    assert api.patch_spec(HOOP_ROLE_PLAN, "plan", change)["spec"] == MANAGED | change
    api.create(HOOP_RESOURCE, changed(POSTGRES, resourceName="shop"), name="resource")
    change = {"advertise": {"host": "pool"}, "roles": [{"name": "app"}], "guardrails": {"privileges": []}}
    patched = api.patch_spec(HOOP_RESOURCE, "resource", change)
    assert patched["spec"] == POSTGRES | {"resourceName": "shop"} | change


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
READY = Condition(
    type="Ready", status="True", reason="Applied", message="", last_transition_time=NOW, observed_generation=1
)

STATUSES = [
    pytest.param(
        HOOP_RESOURCE,
        POSTGRES,
        HoopResourceStatus(
            id="6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b11",
            sid="6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b12",
            status=Outcome.SUCCESS,
            message="",
            created_at=NOW,
            updated_at=NOW,
            observed_generation=1,
            server=ServerInfo(
                version="18.6",
                system_identifier="18446744073709551615",
                is_superuser=False,
                can_create_role=True,
            ),
            connections=(Connection(name="app", secret_name="db-app-connection"),),
            plans=3,
            conditions=(READY,),
        ),
        id="HoopResource",
    ),
    pytest.param(
        HOOP_ROLE_PLAN,
        MANAGED,
        HoopRolePlanStatus(
            sid="6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b13",
            status=Outcome.FAILED,
            message="m" * 40000,
            resource_name="my-postgres",
            role="hoopdev_my_postgres_ro_4da1f169",
            role_oid=4294967295,
            system_identifier="18446744073709551615",
            observed_generation=1,
            secret_name="plan-credentials",
            binding=ServiceBinding(name="plan-credentials"),
            plan=ComputedPlan(
                sid="6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b13",
                checksum="c" * 64,
                statements=("S" * 3000,) * 300,
                count=300,
                computed_at=NOW,
            ),
            last_applied_time=NOW,
            last_applied_sid="6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b13",
            last_rotation_time=NOW,
            next_rotation_time=NOW,
            history=(
                HistoryEntry(
                    sid="6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b13",
                    trigger="spec",
                    checksum="c" * 64,
                    status=Outcome.FAILED,
                    message="m" * 40000,
                    statement_count=300,
                    started_at=NOW,
                    finished_at=NOW,
                ),
            )
            * 11,
            observed_reconcile_at="now",
            observed_approve="c" * 40,
            observed_rotate_at="",
            rotated_generation=1,
            conditions=(READY,),
        ),
        id="HoopRolePlan",
    ),
]


@pytest.mark.parametrize(("resource", "spec", "status"), STATUSES)
def test_the_api_server_keeps_a_whole_status(
    api: Api, resource: CustomResource, spec: dict[str, Any], status: HoopResourceStatus | HoopRolePlanStatus
) -> None:
    assert status.model_fields_set == set(type(status).model_fields)
    api.create(resource, spec, name="reported")
    dumped = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    kept = api.patch_status(resource, "reported", dumped)
    assert kept["status"] == dumped
    assert resource.status.model_validate(kept["status"]) == status


def test_objects_are_selected_by_what_they_refer_to_and_are(api: Api) -> None:
    api.create(HOOP_ROLE_PLAN, MANAGED, name="managed")
    api.create(HOOP_ROLE_PLAN, changed(EXTERNAL, resourceRef={"name": "other"}), name="external")
    api.create(HOOP_RESOURCE, POSTGRES, name="database")
    api.create(HOOP_RESOURCE, changed(POSTGRES, type="application", subtype="ssh"), name="application")
    assert api.names(HOOP_ROLE_PLAN, "spec.resourceRef.name=my-postgres") == ["managed"]
    assert api.names(HOOP_ROLE_PLAN, "spec.type=external") == ["external"]
    assert api.names(HOOP_RESOURCE, "spec.type=database") == ["database"]
    assert api.names(HOOP_RESOURCE, "spec.subtype=ssh") == ["application"]

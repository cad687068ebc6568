"""Kubernetes objects from YAML, as people keep them in files."""

import pytest

from hoop_operator.reconcile.manifests import Manifests, read_manifests
from hoop_operator.reconcile.objects import Key, Reading

RESOURCE = """
apiVersion: hoop.dev/v1alpha1
kind: HoopResource
metadata: {name: pg, namespace: team}
spec: {type: database, subtype: postgres, envVarsFrom: [{secretRef: {name: admin}}]}
"""
PLAN = """
apiVersion: hoop.dev/v1alpha1
kind: HoopRolePlan
metadata: {name: ro, annotations: {hoop.dev/rotate-at: 2026-01-01}}
spec: {resourceRef: {name: pg}, type: managed, role: ro, scopes: [shop], privileges: [SELECT]}
"""
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: admin, namespace: team}
data: {host: ZGI=, password: b2xk}
stringData: {password: new}
"""
CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: place, namespace: team}
data: {port: "5432"}
binaryData: {ca.crt: /wA=}
"""
NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata: {name: team, labels: {tier: gold}}
"""


def read(*texts: str, namespace: str = "default") -> Manifests:
    return read_manifests({f"{number}.yaml": text for number, text in enumerate(texts)}, namespace)


def as_list(*items: str, kind: str = "List") -> str:
    indented = "".join("- " + item.strip().replace("\n", "\n  ") + "\n" for item in items)
    return f"apiVersion: v1\nkind: {kind}\nitems:\n{indented}"


def test_every_kind_that_plans_depend_on_is_read() -> None:
    found = read("---".join([RESOURCE, PLAN]), "---".join(["# nothing\n", SECRET, CONFIG_MAP, NAMESPACE]))
    assert found.problems == []
    assert [*found.resources] == [Key("team", "pg")]
    assert found.contents == {
        Reading("Secret", "team", "admin"): {"host": b"db", "password": b"new"},
        Reading("ConfigMap", "team", "place"): {"port": b"5432", "ca.crt": b"\xff\x00"},
    }
    assert found.namespaces == {"team": {"tier": "gold", "kubernetes.io/metadata.name": "team"}}


def test_an_object_that_names_no_namespace_is_in_the_one_that_was_asked_for() -> None:
    assert [*read(PLAN).plans] == [Key("default", "ro")]
    assert [*read(PLAN, namespace="team").plans] == [Key("team", "ro")]
    assert [*read(RESOURCE, namespace="other").resources] == [Key("team", "pg")]


def test_what_looks_like_a_date_is_text_as_it_is_to_kubectl() -> None:
    (plan,) = read(PLAN).plans.values()
    assert plan.annotations == {"hoop.dev/rotate-at": "2026-01-01"}


@pytest.mark.parametrize("kind", ["List", "HoopRolePlanList"])
def test_lists_are_read_item_by_item(kind: str) -> None:
    found = read(as_list(as_list(RESOURCE), PLAN, kind=kind))
    assert found.problems == []
    assert ([*found.resources], [*found.plans]) == ([Key("team", "pg")], [Key("default", "ro")])


def test_other_kinds_and_plans_that_are_being_deleted_are_counted_and_left_out() -> None:
    deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}"
    foreign = SECRET.replace("v1", "vault.example.com/v1")
    going = PLAN.replace("name: ro,", "name: ro, deletionTimestamp: 2026-01-01T00:00:00Z,")
    found = read("\n---\n".join([deployment, deployment, foreign, going]))
    assert found.problems == []
    assert found.skipped == {"Deployment": 2, "Secret": 1, "HoopRolePlan that is being deleted": 1}
    assert not found.plans
    assert not found.contents


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PLAN.replace("type: managed", "type: wrong"), "HoopRolePlan default/ro: spec.type: "),
        (PLAN.replace("[SELECT]", "[select]"), "HoopRolePlan default/ro: spec.privileges.0: "),
        (PLAN.replace("v1alpha1", "v2"), "HoopRolePlan default/ro: apiVersion: must be hoop.dev/v1alpha1"),
        (PLAN.replace("name: ro,", "name: RO,"), "HoopRolePlan default/RO: metadata.name: "),
        (PLAN.replace("name: ro,", ""), "HoopRolePlan default/None: metadata.name: Field required"),
        (PLAN.partition("spec")[0], "HoopRolePlan default/ro: spec: Field required"),
        (RESOURCE.replace("postgres,", "5,"), "HoopResource team/pg: spec.subtype: "),
        (
            SECRET.replace("b2xk", "pa55wor"),
            "Secret team/admin: data.password: the value is not base64; encode it",
        ),
        (SECRET.replace("new", "55555"), "Secret team/admin: stringData.password: "),
        (NAMESPACE.replace("gold", "1"), "Namespace team: metadata.labels.tier: "),
        ("kind: HoopRolePlan", "a document is no Kubernetes object"),
        ("- just\n- a list", "a document is no Kubernetes object"),
    ],
)
def test_what_is_wrong_is_told_by_file_kind_name_and_field_and_never_by_its_value(
    text: str, problem: str
) -> None:
    (told,) = read(text).problems
    assert told.startswith(f"0.yaml: {problem}")
    assert "pa55wor" not in told
    assert "55555" not in told


def test_of_text_that_is_not_yaml_only_the_place_is_told() -> None:
    text = SECRET.replace("b2xk", "*pa55word") + "---\n" + PLAN
    assert read(text).problems == ["0.yaml: this is not YAML at line 5, column 30"]


def test_a_list_that_holds_itself_is_told() -> None:
    text = "&list\nkind: List\napiVersion: v1\nitems: [*list]\n"
    assert read_manifests({"plans.yaml": text}, "default").problems == [
        "plans.yaml: a list holds itself, by an alias"
    ]


def test_the_same_object_twice_is_refused_by_both_files() -> None:
    assert read(PLAN, RESOURCE, PLAN).problems == [
        "2.yaml: HoopRolePlan default/ro: it is in 0.yaml already; remove one of the two"
    ]


def test_the_contents_of_secrets_are_in_no_repr() -> None:
    assert "new" not in repr(read(SECRET))

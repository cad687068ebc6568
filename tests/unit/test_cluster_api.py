from typing import Any

import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import OPERATOR, RETRY_AFTER_SECONDS_MAX, Account, failure, retry_after
from hoop_operator.errors import (
    AccessDenied,
    ClusterError,
    ClusterUnavailable,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)
from kubectl_hoop.client import person

PASSWORD = "tell-nobody"
QUOTING = {"reason": "Invalid", "message": f'Invalid value: "{PASSWORD}"'}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, ObjectRejected),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, ObjectNotFound),
        (405, ObjectRejected),
        (408, ClusterUnavailable),
        (409, ObjectConflict),
        (410, ClusterUnavailable),
        (413, ObjectRejected),
        (422, ObjectRejected),
        (429, ClusterUnavailable),
        (500, ClusterUnavailable),
        (503, ClusterUnavailable),
    ],
)
def test_status_says_what_went_wrong(status: int, expected: type[ClusterError]) -> None:
    error = failure("GET", "/api/v1/namespaces/a", status, {"details": {"name": "a"}})

    assert type(error) is expected
    assert error.status == status


@pytest.mark.parametrize("answer", [{}, {"reason": "NotFound", "details": {}}, {"details": None}])
def test_a_path_that_is_not_served_is_no_object_that_is_gone(answer: dict[str, Any]) -> None:
    error = failure("GET", paths.hoop_role_plan("a", "b"), 404, answer)

    assert type(error) is ClusterUnavailable
    assert "the CRDs are not installed" in str(error)


def test_message_names_request_status_and_the_servers_words() -> None:
    answer = {"reason": "NotFound", "message": 'namespaces "a" not found', "details": {"name": "a"}}

    assert str(failure("GET", "/api/v1/namespaces/a", 404, answer)) == (
        'Kubernetes API: GET /api/v1/namespaces/a: 404 NotFound: namespaces "a" not found'
    )


@pytest.mark.parametrize(
    "path",
    [
        paths.secrets("a"),
        paths.secret("a", "b"),
        paths.hoop_resources("a"),
        paths.hoop_resource("a", "b"),
        paths.status(paths.hoop_resource("a", "b")),
    ],
)
def test_servers_words_are_withheld_where_they_may_quote_a_credential(path: str) -> None:
    error = failure("PATCH", path, 422, QUOTING)

    assert str(error) == f"Kubernetes API: PATCH {path}: 422 Invalid"


@pytest.mark.parametrize(
    ("account", "who", "remedy"),
    [
        (
            OPERATOR,
            "the operator's account",
            "give it that right, as the chart and deploy/manifests/rbac.yaml ",
        ),
        (person("prod"), "you (context prod)", "ask an administrator of the cluster for it: "),
        (person(None), "you", "ask an administrator of the cluster for it: "),
    ],
)
def test_a_right_that_is_missing_is_named_whatever_the_path_and_told_to_whom_it_concerns(
    account: Account, who: str, remedy: str
) -> None:
    denied = 'cannot get resource "secrets" in API group "" in the namespace "a"'
    message = f'secrets "b" is forbidden: User "system:serviceaccount:c:d" {denied}: {PASSWORD}'
    answer = {"reason": "Forbidden", "message": message}
    told = str(failure("GET", paths.secret("a", "b"), 403, answer, account))

    assert f": {who} {denied}; {remedy}" in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    "who",
    [
        "exceeded quota: few, requested: count/secrets=1",
        'admission webhook "secrets.example.com" denied the request',
        "ValidatingAdmissionPolicy 'no-secrets' with binding 'no-secrets' denied request",
    ],
)
def test_who_refuses_a_secret_is_named_and_no_more_of_their_words(who: str) -> None:
    answer = {"reason": "Forbidden", "message": f'secrets "b" is forbidden: {who}: {PASSWORD}, {PASSWORD}'}

    assert str(failure("POST", paths.secrets("a"), 403, answer)).endswith(f"403 Forbidden: {who}")


def test_servers_words_are_repeated_elsewhere() -> None:
    assert PASSWORD in str(failure("PATCH", paths.hoop_role_plan("a", "b"), 422, QUOTING))


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("0", 0),
        ("3", 3),
        ("86400", RETRY_AFTER_SECONDS_MAX),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 1),
        ("-1", 1),
        ("", 1),
    ],
)
def test_waiting_is_bounded_whatever_the_server_asks(asked: str, seconds: float) -> None:
    assert retry_after({"Retry-After": asked}) == seconds


def test_waiting_takes_a_second_when_the_server_asks_nothing() -> None:
    assert retry_after({}) == 1


def test_paths_lead_where_the_objects_are() -> None:
    body = {"kind": "HoopRolePlan", "metadata": {"namespace": "a", "name": "b"}}

    assert paths.secret("a", "b") == "/api/v1/namespaces/a/secrets/b"
    assert paths.secrets() == "/api/v1/secrets"
    assert paths.config_map("a", "b") == "/api/v1/namespaces/a/configmaps/b"
    assert paths.namespace("a") == "/api/v1/namespaces/a"
    assert paths.events("a") == "/apis/events.k8s.io/v1/namespaces/a/events"
    assert paths.lease("a", "b") == "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"
    assert paths.hoop_resource("a", "b") == "/apis/hoop.dev/v1alpha1/namespaces/a/hoopresources/b"
    assert paths.custom_object(body) == "/apis/hoop.dev/v1alpha1/namespaces/a/hooproleplans/b"
    assert paths.status(paths.custom_object(body)).endswith("/hooproleplans/b/status")


@pytest.mark.parametrize("name", ["", ".", "..", "../configmaps/x", "a/b", "a%2fb"])
def test_no_name_leads_to_another_object(name: str) -> None:
    with pytest.raises(ObjectRejected):
        paths.secret("a", name)
    with pytest.raises(ObjectRejected):
        paths.secret(name, "b")


def test_odd_characters_stay_within_the_name() -> None:
    assert paths.secret("a", "b?watch=1#c d") == "/api/v1/namespaces/a/secrets/b%3Fwatch%3D1%23c%20d"

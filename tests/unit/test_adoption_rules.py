"""What is asked of the API server before a plan has the role of another, and which Secrets it may have."""

from typing import Any, cast

import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import Secret, decode
from hoop_operator.errors import AccessDenied, ClusterUnavailable, ObjectNotFound, Overtaken
from hoop_operator.planner.model import Adoption, DesiredRole, Identity
from hoop_operator.reconcile.adoption import is_what_we_wrote, may_take_over, with_predecessor_asked_for
from hoop_operator.reconcile.objects import Key, Plan
from hoop_operator.reconcile.secret import find

DESIRED = DesiredRole(
    "ours", Identity("default", "shop", "new"), adoption=Adoption(Identity("default", "former", "old"))
)


class Answering:
    """An API server that has one answer."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self._answer = answer
        self.asked: list[str] = []

    async def get(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def asked(answer: dict[str, Any] | Exception) -> Adoption:
    server = Answering(answer)
    found = (await with_predecessor_asked_for(cast("KubernetesApi", server), DESIRED)).adoption
    assert server.asked == [paths.hoop_role_plan("former", "old")]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"metadata": {}}, "former/old still exists"),
        ({"metadata": {"deletionTimestamp": "now"}}, "former/old is being deleted"),
        (AccessDenied("forbidden", status=403), "could not be found out"),
        (ClusterUnavailable("no answer"), "could not be found out"),
    ],
)
async def test_what_the_api_server_does_not_say_is_no_proof_that_a_plan_is_gone(
    answer: dict[str, Any] | Exception, words: str
) -> None:
    assert words in ((await asked(answer)).obstacle or "")


async def test_a_plan_that_the_api_server_does_not_know_is_gone() -> None:
    assert (await asked(ObjectNotFound("not found", status=404))).obstacle is None


async def test_nobody_is_asked_where_no_predecessor_is_named() -> None:
    server = Answering(AssertionError("nothing was to be asked"))
    for adoption in (None, Adoption()):
        desired = DesiredRole("ours", DESIRED.identity, adoption=adoption)
        assert await with_predecessor_asked_for(cast("KubernetesApi", server), desired) is desired


# Secrets.

PLAN = Plan.parse(
    {
        "metadata": {"namespace": "shop", "name": "new", "uid": "1", "generation": 1, "resourceVersion": "1"},
        "spec": {"resourceRef": {"name": "pg"}, "type": "managed", "role": "ro"},
    }
)
OLD = Adoption(Identity("default", "shop", "old"))


def secret(*, type: str = "Opaque", controller: dict[str, str] | None = None, **metadata: Any) -> Secret:  # noqa: A002 -- as in the API
    known = {"namespace": "shop", "name": "creds", "uid": "2", "resourceVersion": "1"}
    owners = [{"controller": True, "uid": "gone", **controller}] if controller else []
    body = {"metadata": {**known, "ownerReferences": owners, **metadata}, "type": type}
    return decode({**body, "data": {"username": "b3Vycw=="}})


def controlled_by(kind: str, name: str, group: str = "hoop.dev") -> Secret:
    return secret(controller={"apiVersion": f"{group}/v1alpha1", "kind": kind, "name": name})


@pytest.mark.parametrize(
    ("found", "adoption", "expected"),
    [
        (secret(), Adoption(), True),
        (secret(), OLD, True),
        (secret(), None, False),
        (secret(), Adoption(OLD.predecessor, "it still exists"), False),
        (secret(type="kubernetes.io/basic-auth"), Adoption(), False),
        (secret(type="bootstrap.kubernetes.io/token"), Adoption(), False),
        (secret(type="notkubernetes.io/thing"), Adoption(), True),
        (secret(type="helm.sh/release.v1"), Adoption(), False),
        (secret(name="sh.helm.release.v1.shop.v1"), Adoption(), False),
        (secret(labels={"owner": "helm"}), Adoption(), False),
        (controlled_by("HoopRolePlan", "old"), OLD, True),
        (controlled_by("HoopRolePlan", "old"), Adoption(), False),
        (controlled_by("HoopRolePlan", "old"), Adoption(OLD.predecessor, "it still exists"), False),
        (controlled_by("HoopRolePlan", "old"), Adoption(Identity("default", "former", "old")), False),
        (controlled_by("HoopRolePlan", "other"), OLD, False),
        (controlled_by("HoopResource", "old"), OLD, False),
        (controlled_by("HoopRolePlan", "old", "other.example"), OLD, False),
    ],
)
def test_a_secret_is_to_be_had_when_nobody_controls_it_or_the_plan_that_did_is_gone(
    found: Secret, adoption: Adoption | None, expected: bool
) -> None:
    assert may_take_over(PLAN, found, adoption, ()) is expected
    assert not may_take_over(PLAN, found, adoption, [Key("shop", "pg")])


def test_a_secret_that_lost_its_owner_is_known_by_what_we_wrote_and_the_role() -> None:
    labels, annotations = {"app.kubernetes.io/managed-by": "hoop-operator"}, {"hoop.dev/managed": "{}"}
    assert is_what_we_wrote(secret(labels=labels, annotations=annotations), "ours")
    assert not is_what_we_wrote(secret(labels=labels, annotations=annotations), "another")
    assert not is_what_we_wrote(secret(labels=labels), "ours")
    assert not is_what_we_wrote(secret(annotations=annotations), "ours")
    controller = {"apiVersion": "hoop.dev/v1alpha1", "kind": "HoopRolePlan", "name": "other"}
    assert not is_what_we_wrote(secret(controller=controller, labels=labels, annotations=annotations), "ours")


@pytest.mark.parametrize("now", [{"uid": "1", "deletionTimestamp": "now"}, {"uid": "another"}])
async def test_a_secret_that_a_deletion_leaves_behind_is_not_taken_up_again(now: dict[str, str]) -> None:
    """The garbage collector takes its owner off, and a run may be under way that began before."""
    body = Plan.parse({**PLAN.body, "kind": "HoopRolePlan"})
    orphaned = {
        "metadata": {
            "namespace": "shop",
            "name": "new-credentials",
            "uid": "2",
            "resourceVersion": "1",
            "labels": {"app.kubernetes.io/managed-by": "hoop-operator"},
            "annotations": {"hoop.dev/managed": "{}"},
        },
        "type": "Opaque",
        "data": {"username": "b3Vycw=="},
    }
    plan_path = paths.hoop_role_plan("shop", "new")

    class Cluster:
        async def get(self, path: str) -> dict[str, Any]:
            return {"metadata": now} if path == plan_path else orphaned

    with pytest.raises(Overtaken):
        await find(cast("KubernetesApi", Cluster()), body, DESIRED)

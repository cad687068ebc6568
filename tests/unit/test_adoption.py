"""What is asked of the API server before a plan has the role of another, and which Secrets it may have."""

from typing import Any, cast

import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import AccessDenied, ClusterUnavailable, ObjectNotFound
from hoop_operator.planner.model import Adoption, DesiredRole, Identity
from hoop_operator.reconcile.adoption import with_predecessor_asked_for

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

"""What is taken back of an apply that failed; the API server is the stand-in of the exploration."""

from types import SimpleNamespace
from typing import Any

import pytest

from exploration.api_server import ApiServer
from hoop_operator.api.applying import _take_back
from hoop_operator.api.plans import ROTATE_ON_APPLY
from hoop_operator.cluster import paths
from hoop_operator.naming import APPROVE, ROTATE_AT

PATH = paths.hoop_role_plan("shop", "db.ro")
WANTED = {APPROVE: "checksum", ROTATE_AT: "asked", ROTATE_ON_APPLY: None}


class Api:
    """The stand-in, asked as the API server is."""

    def __init__(self) -> None:
        self.server = ApiServer()

    async def json_patch(self, path: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
        return self.server.json_patch(path, operations)


@pytest.mark.parametrize(
    ("since", "left"),
    [
        ({}, {ROTATE_ON_APPLY: "asked"}),
        ({ROTATE_AT: "by somebody else"}, {ROTATE_AT: "by somebody else"}),
        ({APPROVE: "another"}, {APPROVE: "another", ROTATE_ON_APPLY: "asked"}),
    ],
    ids=["nothing", "rotation", "approval"],
)
async def test_of_an_approval_and_a_rotation_each_is_taken_back_that_nobody_has_changed_since(
    since: dict[str, str], left: dict[str, str]
) -> None:
    api = Api()
    annotations = {name: value for name, value in WANTED.items() if value is not None}
    body = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": {"name": "db.ro", "annotations": annotations},
        "spec": {},
    }
    approved = api.server.create(paths.hoop_role_plans("shop"), body)
    api.server.merge_patch(PATH, {"metadata": {"annotations": since}})
    session: Any = SimpleNamespace(api=api, namespace="shop")

    assert await _take_back(session, approved, WANTED) == ""

    assert api.server.get(PATH)["metadata"]["annotations"] == left

"""What becomes of what is held of a plan's Secret, where its replacement was cut short."""

from typing import Any

import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import read_held, read_secret
from hoop_operator.errors import ClusterUnavailable, PlanFailure, PlanReason
from hoop_operator.planner.model import Adoption, DesiredRole, Identity
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.rotation import UNKNOWN
from hoop_operator.reconcile.secret import find, remove, remove_former, write
from integration.dying import DyingApi

pytestmark = pytest.mark.version_independent

MARKED_AND_HELD = 2
DELETED = 3
CREATED = 4
"""How many writes of a replacement were made."""


class Replacement:
    """A plan that takes over a Secret of another type and dies of it."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.desired = DesiredRole("ours", Identity("default", namespace, "ro"))
        self.adopting = DesiredRole("ours", self.desired.identity, adoption=Adoption())

    async def begin(self, writes: int) -> Plan:
        """Return the plan after some writes."""
        body = {
            "apiVersion": "hoop.dev/v1alpha1",
            "kind": "HoopRolePlan",
            "metadata": {"name": "ro"},
            "spec": {
                "resourceRef": {"name": "nobody-serves-it"},
                "type": "external",
                "role": "ro",
                "sourceRole": "readers",
            },
        }
        plan = Plan.parse(await self.api.create(paths.hoop_role_plans(self.namespace), body))
        await self.make_secret("ro-credentials")
        await self.write(plan, self.adopting, writes)
        return plan

    async def make_secret(self, name: str) -> None:
        values = {"password": f"of {name}", "note": "theirs"}
        secret = {"metadata": {"name": name}, "stringData": values}
        await self.api.create(paths.secrets(self.namespace), secret)

    async def write(self, plan: Plan, desired: DesiredRole, writes: int | None = None) -> None:
        """Write the plan's Secret, or die of it."""
        found = await find(self.api, plan, desired)
        data = {"username": desired.name, "password": found.password or "fresh"}
        if writes is None:
            await write(self.api, plan, found, data, UNKNOWN)
            return
        with pytest.raises(ClusterUnavailable):
            await write(DyingApi(self.api, writes), plan, found, data, UNKNOWN)

    async def is_held(self, plan: Plan) -> bool:
        return await read_held(self.api, self.namespace, plan.owner) is not None

    async def data(self, name: str = "ro-credentials") -> dict[str, bytes] | None:
        secret = await read_secret(self.api, self.namespace, name)
        return dict(secret.data) if secret is not None else None


@pytest.fixture
def replacement(api: KubernetesApi, namespace: str) -> Replacement:
    return Replacement(api, namespace)


def renamed(plan: Plan, name: str) -> Plan:
    """The plan as it is when it has had its Secret, and then is given another one."""
    changed: dict[str, Any] = {
        **plan.body,
        "status": {"secretName": plan.secret_name},
        "spec": {**plan.body["spec"], "secretName": name},
    }
    return Plan.parse(changed)


async def test_a_takeover_that_was_cut_short_is_completed_whatever_the_annotation_says_by_then(
    replacement: Replacement,
) -> None:
    plan = await replacement.begin(DELETED)
    assert await replacement.data() is None
    found = await find(replacement.api, plan, replacement.desired)
    assert (found.adopted, found.password) == (True, "of ro-credentials")
    await replacement.write(plan, replacement.desired)
    assert await replacement.data() == {
        "username": b"ours",
        "password": b"of ro-credentials",
        "note": b"theirs",
    }
    assert not await replacement.is_held(plan)


async def test_nothing_is_held_of_a_secret_that_is_not_to_be_taken_over_after_all(
    replacement: Replacement,
) -> None:
    plan = await replacement.begin(MARKED_AND_HELD)
    assert await replacement.is_held(plan)
    with pytest.raises(PlanFailure) as conflict:
        await find(replacement.api, plan, replacement.desired)
    assert conflict.value.reason is PlanReason.SECRET_CONFLICT
    assert await replacement.data() == {"password": b"of ro-credentials", "note": b"theirs"}
    assert not await replacement.is_held(plan)


async def test_a_secret_where_something_would_be_held_is_a_conflict_that_names_it(
    replacement: Replacement,
) -> None:
    plan = await replacement.begin(0)
    await replacement.make_secret(f"hoop-held-{plan.uid}")
    with pytest.raises(PlanFailure, match=f"hoop-held-{plan.uid} exists already") as conflict:
        await replacement.write(plan, replacement.adopting)
    assert conflict.value.reason is PlanReason.SECRET_CONFLICT
    assert await replacement.data() == {"password": b"of ro-credentials", "note": b"theirs"}


async def test_what_is_held_goes_on_in_a_secret_of_another_name(replacement: Replacement) -> None:
    plan = renamed(await replacement.begin(DELETED), "new")
    await replacement.write(plan, replacement.desired)
    assert await replacement.data("new") == {
        "username": b"ours",
        "password": b"of ro-credentials",
        "note": b"theirs",
    }
    assert not await replacement.is_held(plan)


@pytest.mark.parametrize("writes", [DELETED, CREATED])
async def test_nothing_is_held_any_more_where_the_plan_has_a_secret_that_was_there(
    replacement: Replacement, writes: int
) -> None:
    plan = renamed(await replacement.begin(writes), "new")
    await replacement.make_secret("new")
    await replacement.write(plan, replacement.adopting)
    await remove_former(replacement.api, plan)
    assert (await replacement.data("new") or {})["password"] == b"of new"
    assert await replacement.data() is None
    assert not await replacement.is_held(plan)


@pytest.mark.parametrize(
    ("writes", "orphans", "is_there", "is_held"),
    [
        (CREATED, False, False, False),
        (CREATED, True, True, False),
        (DELETED, False, False, False),
        # Whoever wants to keep the Secret has it there, and nowhere else.
        (DELETED, True, False, True),
    ],
)
async def test_what_is_held_goes_with_the_plan_unless_the_secret_is_to_stay_and_is_nowhere_else(
    replacement: Replacement, *, writes: int, orphans: bool, is_there: bool, is_held: bool
) -> None:
    plan = await replacement.begin(writes)
    if orphans:
        metadata = {**plan.body["metadata"], "finalizers": ["orphan"]}
        plan = Plan.parse({**plan.body, "metadata": metadata})
    await remove(replacement.api, plan)
    assert (await replacement.data() is not None) is is_there
    assert await replacement.is_held(plan) is is_held

"""Several things asked in one request, at the same time; what goes wrong with one is told of that one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from hoop_operator.api import applying, plans
from hoop_operator.api.problems import UNAUTHENTICATED, Problem, problem_of, refusing_invalid
from hoop_operator.api.resources import Session
from hoop_operator.api.wire import ApplyItem, ApplyRequest, ApplyResult, PlanItem, PlanRequest, PlanResult
from hoop_operator.crd import Outcome
from hoop_operator.errors import ClusterError
from hoop_operator.naming import role_name

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def plan_all(session: Session, items: Sequence[PlanItem]) -> list[PlanResult]:
    """Plan several roles at the same time.

    Raises
    ------
    Problem
        401: the API server does not know the caller.
    """
    first: dict[tuple[str, str], int] = {}

    async def one(index: int, item: PlanItem) -> PlanResult:
        if (former := first.setdefault((item.resource_name, item.role), index)) != index:
            raise Problem(409, f"role: item {former} plans {item.role} of {item.resource_name} already")
        with refusing_invalid():
            request = PlanRequest.model_validate(item.model_dump())
        return await plans.plan(session, item.resource_name, request)

    def failed(item: PlanItem, message: str) -> PlanResult:
        role = ""
        with suppress(ValueError):
            role = role_name(item.resource_name, item.role)
        return PlanResult(
            sid="",
            resource_name=item.resource_name,
            role=role,
            status=Outcome.FAILED.value,
            message=message,
        )

    return await each(items, one, failed)


async def apply_all(session: Session, items: Sequence[ApplyItem]) -> list[ApplyResult]:
    """Apply several plans at the same time.

    Raises
    ------
    Problem
        401: the API server does not know the caller.
    """

    async def one(_: int, item: ApplyItem) -> ApplyResult:
        if not item.sid:
            raise Problem(400, "sid: empty, as that of a plan which failed: plan again")
        with refusing_invalid():
            request = ApplyRequest.model_validate(item.model_dump())
        return await applying.apply(session, item.resource_name, request)

    def failed(item: ApplyItem, message: str) -> ApplyResult:
        return ApplyResult(
            sid=item.sid, resource_name=item.resource_name, status=Outcome.FAILED.value, message=message
        )

    return await each(items, one, failed)


async def each(
    items: Sequence[_Item],
    work: Callable[[int, _Item], Awaitable[_Result]],
    failed: Callable[[_Item, str], _Result],
) -> list[_Result]:
    """Do something about each item, given with its place, and return the results in their order.

    `failed` makes a result of what went wrong with one.

    Raises
    ------
    Problem
        401: the API server does not know the caller, of whom nothing more is asked then.
    """

    async def one(index: int, item: _Item) -> _Result:
        try:
            return await work(index, item)
        except ClusterError as error:
            problem = problem_of(error)
        except Problem as raised:
            problem = raised
        if problem.status == UNAUTHENTICATED.status:
            raise problem
        return failed(item, problem.message)

    tasks = [asyncio.ensure_future(one(index, item)) for index, item in enumerate(items)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

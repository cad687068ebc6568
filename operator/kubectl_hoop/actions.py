"""What a person decides about a plan: approve, rotate, reconcile, suspend, resume."""

import asyncio
import signal
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import AccessDenied, ObjectConflict, PlanReason
from hoop_operator.naming import APPROVE, RECONCILE_AT, ROTATE_AT
from hoop_operator.reconcile.objects import Key, Plan
from kubectl_hoop.client import Cluster
from kubectl_hoop.objects import read_plan
from kubectl_hoop.options import FINE, WRONG, note, on_cluster, plan_name, say
from kubectl_hoop.pending import show_pending
from kubectl_hoop.signals import handling

POLL_SECONDS = 0.5
WAIT_SECONDS = 60
CONFLICTS_MAX = 10

OVERRULED = (
    "The field is part of the object's spec: where Git has the manifest (Argo CD, Flux, Helm), change it there, or the "
    "next sync undoes this."
)


@click.command(
    epilog="Example: kubectl hoop approve orders-ro -n shop",
    short_help="Show a plan that waits, ask, and approve exactly that.",
)
@plan_name
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--checksum", help="Approve nothing but the plan of this checksum.")
@on_cluster
async def approve(cluster: Cluster, name: str, *, yes: bool, checksum: str | None) -> int:
    """Show the statements that wait for approval, ask, and approve exactly these.

    Nothing is approved where the plan became another one meanwhile. Where a status does not hold all statements,
    --yes takes --checksum, too. Approving takes the verb approve on
    hooproleplans, which the ClusterRole hoop-approve has.
    """
    plan = await read_plan(cluster.api, Key(cluster.namespace, name))
    if not plan.waits_for_approval:
        ready = plan.condition("Ready")
        note(
            f"HoopRolePlan {plan.key} does not wait for approval ({ready.get('reason', 'no run yet')}); nothing was "
            f"approved"
        )
        return WRONG
    computed = plan.status["plan"]["checksum"]
    complete = show_pending(plan)
    if checksum not in {None, computed}:
        note(f"HoopRolePlan {plan.key} is not the plan {checksum} but {computed}: nothing was approved")
        return WRONG
    if yes and not complete and checksum is None:
        raise click.UsageError(f"not all is shown; to approve it unread, add --checksum {computed}")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: add --yes")
        question = "Approve exactly this?" if complete else "Approve this, and what is not shown?"
        # While asyncio handles it, Ctrl-C does not end a question but the next wait.
        with handling(signal.SIGINT, signal.default_int_handler):
            confirmed = click.confirm(question, err=True)
        if not confirmed:
            note("not approved")
            return WRONG
    if not await _approve(cluster.api, plan, computed):
        note(
            f"HoopRolePlan {plan.key} became another plan while you read: nothing was approved; look at it again with "
            f"kubectl hoop approve {name} -n {plan.key.namespace}"
        )
        return WRONG
    say(f"HoopRolePlan {plan.key} is approved: {computed}")
    return FINE


async def _approve(api: KubernetesApi, plan: Plan, checksum: str) -> bool:
    """Put a checksum into the annotation, unless the plan is another one by now.

    The operator may write the status of the very same plan between our look and our write: then it is looked at again.
    """
    for _ in range(CONFLICTS_MAX):
        if (plan.status.get("plan") or {}).get("checksum") != checksum or plan.generation != plan.status.get(
            "observedGeneration"
        ):
            return False
        metadata = {"resourceVersion": str(plan.resource_version), "annotations": {APPROVE: checksum}}
        try:
            await api.merge_patch(paths.hoop_role_plan(*plan.key), {"metadata": metadata})
        except ObjectConflict:
            plan = await read_plan(api, plan.key)
            continue
        except AccessDenied as error:
            raise AccessDenied(
                f"you may not approve in namespace {plan.key.namespace}: it takes the verbs patch and approve on "
                f"hooproleplans; ask for the ClusterRole hoop-approve there. {error}",
                status=error.status,
            ) from None
        return True
    return False


@click.command(
    epilog="Example: kubectl hoop rotate orders-ro -n shop --wait",
    short_help="Give a plan's role a new password.",
)
@plan_name
@click.option("--wait", is_flag=True, help="Return when the new password is in the Secret.")
@click.option(
    "--timeout",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help=f"How long --wait waits.  [default: {WAIT_SECONDS}]",
)
@on_cluster
async def rotate(cluster: Cluster, name: str, *, wait: bool, timeout: int | None) -> int:  # noqa: ASYNC109 -- an option
    """Ask for a new password, once, by the annotation hoop.dev/rotate-at.

    The former one stops working with it. Open sessions go on.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    seconds = WAIT_SECONDS if timeout is None else timeout
    value = _now()
    plan = await _annotate(cluster, name, ROTATE_AT, value)
    if not wait:
        say(f"HoopRolePlan {plan.key}: a new password was asked for")
        return FINE
    deadline = time.monotonic() + seconds
    # Somebody else may have asked for the same since: one rotation answers both.
    while plan.status.get("observedRotateAt") != plan.annotations.get(ROTATE_AT, value):
        if time.monotonic() > deadline:
            ready = plan.condition("Ready")
            note(
                f"HoopRolePlan {plan.key} was not rotated within {seconds} s; it will be when nothing stands against "
                f"it any more. {ready.get('reason', 'No run yet')}: {ready.get('message', '')}".rstrip(": ")
            )
            return WRONG
        await asyncio.sleep(POLL_SECONDS)
        plan = await read_plan(cluster.api, plan.key)
    say(f"HoopRolePlan {plan.key}: the Secret {plan.secret_name} has a new password")
    return FINE


@click.command(
    epilog="Example: kubectl hoop reconcile orders-ro -n shop",
    short_help="Have a plan run again now.",
)
@plan_name
@on_cluster
async def reconcile(cluster: Cluster, name: str) -> int:
    """Have a plan run again now, by the annotation hoop.dev/reconcile-at."""
    plan = await _annotate(cluster, name, RECONCILE_AT, _now())
    say(f"HoopRolePlan {plan.key}: another run was asked for")
    if plan.condition("Ready").get("reason") == PlanReason.SUSPENDED:
        note(f"it is suspended; run it again with: kubectl hoop resume {name} -n {plan.key.namespace}")
    return FINE


@click.command(
    epilog="Example: kubectl hoop suspend orders-ro -n shop",
    short_help="Have nothing done about a plan.",
)
@plan_name
@on_cluster
async def suspend(cluster: Cluster, name: str) -> int:
    """Have nothing done about a plan, by spec.suspend. What is on the server stays; deletion still works."""
    return await _suspend(cluster, name, suspended=True)


@click.command(
    epilog="Example: kubectl hoop resume orders-ro -n shop",
    short_help="Have a suspended plan run again.",
)
@plan_name
@on_cluster
async def resume(cluster: Cluster, name: str) -> int:
    """Have a suspended plan run again, by spec.suspend."""
    return await _suspend(cluster, name, suspended=False)


async def _suspend(cluster: Cluster, name: str, *, suspended: bool) -> int:
    plan = await read_plan(cluster.api, Key(cluster.namespace, name))
    words = "suspended" if suspended else "resumed"
    if plan.spec.suspend is suspended:
        say(f"HoopRolePlan {plan.key}: spec.suspend is {str(suspended).lower()} already")
        return FINE
    await cluster.api.merge_patch(paths.hoop_role_plan(*plan.key), {"spec": {"suspend": suspended}})
    say(f"HoopRolePlan {plan.key} is {words}")
    note(OVERRULED)
    return FINE


async def _annotate(cluster: Cluster, name: str, annotation: str, value: str) -> Plan:
    key = Key(cluster.namespace, name)
    await read_plan(cluster.api, key)  # says better than the API server what does not exist
    body: dict[str, Any] = {"metadata": {"annotations": {annotation: value}}}
    return Plan.parse(await cluster.api.merge_patch(paths.hoop_role_plan(*key), body))


def _now() -> str:
    return datetime.now(UTC).isoformat()

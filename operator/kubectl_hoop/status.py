"""What became of resources and plans: resource -> plans -> Secrets, as a tree for people or as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.tree import Tree

from hoop_operator.errors import AccessDenied, ObjectNotFound
from hoop_operator.reconcile.objects import Key, KubernetesObject, Plan, Resource
from kubectl_hoop.client import Cluster
from kubectl_hoop.objects import PLAN_KIND, RESOURCE_KIND, list_plans, list_resources
from kubectl_hoop.options import FINE, WRONG, complete_both, console, line, note, of_kind, on_cluster

WAITING = frozenset({"PendingApproval", "Suspended"})
"""Reasons of what is not ready because somebody wants it so."""

TROUBLE_WHEN_TRUE = frozenset({"PendingApproval", "Suspended", "InUse"})
"""Conditions that tell of something when they are True; all others when they are not."""


@click.command(
    epilog="Example: kubectl hoop status -n shop",
    short_help="Show resources, their plans and Secrets.",
)
@click.argument(
    "name",
    required=False,
    metavar="[RESOURCE|PLAN]",
    shell_complete=complete_both,
    callback=of_kind(PLAN_KIND, RESOURCE_KIND),
)
@click.option("-A", "--all-namespaces", is_flag=True, help="Those of all namespaces.")
@click.option("-o", "--output", type=click.Choice(["tree", "json"]), default="tree", show_default=True)
@on_cluster
async def status(cluster: Cluster, name: str | None, *, all_namespaces: bool, output: str) -> int:
    """Show resources with their plans and these with their Secrets, and of each what is wrong.

    Exit code 1 where anything shown is not Ready.
    """
    namespace = None if all_namespaces else cluster.namespace
    plans = await list_plans(cluster.api, namespace)
    try:
        resources = await list_resources(cluster.api, namespace)
    except AccessDenied:
        # Who may edit plans need not see the resources: these say where a whole namespace's credentials are.
        resources = []
        note("you may not list HoopResources here: plans are shown without them")
    if name is not None:
        plans = [plan for plan in plans if name in {plan.key.name, plan.resource_key.name}]
        needed = {plan.resource_key for plan in plans}
        resources = [found for found in resources if found.key.name == name or found.key in needed]
        if not plans and not resources:
            where = "any namespace" if namespace is None else f"namespace {namespace}"
            raise ObjectNotFound(f"there is no {RESOURCE_KIND} and no {PLAN_KIND} {name} in {where}")
    if output == "json":
        click.echo(json.dumps(as_json(resources, plans), indent=2))
    elif not resources and not plans:
        where = "any namespace" if namespace is None else f"namespace {namespace}"
        click.echo(f"There is no {RESOURCE_KIND} and no {PLAN_KIND} in {where}.")
    else:
        for tree in as_trees(resources, plans):
            console().print(tree)
    every: list[KubernetesObject] = [*resources, *plans]
    return FINE if all(is_ready(found) for found in every) else WRONG


def is_ready(found: KubernetesObject) -> bool:
    """Whether an object is Ready, and that is said of its present spec."""
    is_current = found.status.get("observedGeneration") == found.generation
    return is_current and found.condition("Ready").get("status") == "True"


def as_json(resources: Iterable[Resource], plans: Sequence[Plan]) -> dict[str, Any]:
    """Resources with their plans; plans whose resource is not among them stand apart."""
    by_resource = _by_resource(resources, plans)
    shown = [
        {
            **_common(resource),
            "type": f"{resource.spec.type}/{resource.spec.subtype}",
            "server": resource.status.get("server"),
            "plans": [_plan_json(plan) for plan in by_resource.pop(resource.key)],
        }
        for resource in resources
    ]
    return {
        "resources": shown,
        "otherPlans": [_plan_json(plan) for rest in by_resource.values() for plan in rest],
    }


def _plan_json(plan: Plan) -> dict[str, Any]:
    status = plan.status
    return {
        **_common(plan),
        "resource": str(plan.resource_key),
        "role": status.get("role"),
        "secret": status.get("secretName"),
        "inSync": plan.condition("InSync").get("status"),
        "lastDriftTime": _last_repair(plan).get("finishedAt"),
        "lastAppliedTime": status.get("lastAppliedTime"),
        "lastRotationTime": status.get("lastRotationTime"),
        "nextRotationTime": status.get("nextRotationTime"),
        "checksum": (status.get("plan") or {}).get("checksum"),
    }


def _common(found: KubernetesObject) -> dict[str, Any]:
    ready = found.condition("Ready")
    return {
        "namespace": found.key.namespace,
        "name": found.key.name,
        "ready": is_ready(found),
        "reason": ready.get("reason"),
        "message": ready.get("message", ""),
        "sid": found.status.get("sid"),
        "conditions": found.status.get("conditions") or [],
    }


def as_trees(resources: Iterable[Resource], plans: Sequence[Plan]) -> list[Tree]:
    """A tree for each resource, and for each resource that plans name and that is not among them."""
    by_resource = _by_resource(resources, plans)
    trees = []
    for resource in resources:
        tree = _node(RESOURCE_KIND, resource, *_server(resource))
        _add_conditions(tree, resource)
        for plan in by_resource.pop(resource.key):
            tree.add(_plan_tree(plan))
        trees.append(tree)
    for key, rest in by_resource.items():
        tree = Tree(line((f"{RESOURCE_KIND} {key}", "bold"), "  not among what is shown"))
        for plan in rest:
            tree.add(_plan_tree(plan))
        trees.append(tree)
    return trees


def _by_resource(resources: Iterable[Resource], plans: Sequence[Plan]) -> dict[Key, list[Plan]]:
    by_resource: dict[Key, list[Plan]] = {resource.key: [] for resource in resources}
    for plan in plans:
        by_resource.setdefault(plan.resource_key, []).append(plan)
    return by_resource


def _server(resource: Resource) -> list[str]:
    server = resource.status.get("server") or {}
    version = f"  PostgreSQL {server['version']}" if server.get("version") else ""
    return [f"  {resource.spec.type}/{resource.spec.subtype}{version}"]


def _plan_tree(plan: Plan) -> Tree:
    status = plan.status
    role = f"  role {status['role']}" if status.get("role") else ""
    tree = _node(PLAN_KIND, plan, role)
    _add_conditions(tree, plan)
    if secret := status.get("secretName"):
        is_written = plan.condition("SecretReady").get("status") == "True"
        tree.add(
            line(f"Secret {secret}  ", ("written", "green") if is_written else ("not as it should be", "red"))
        )
    if repair := _last_repair(plan):
        tree.add(line(f"drift last repaired {repair['finishedAt']}: {', '.join(repair['repaired'])}"))
    if rotated := status.get("lastRotationTime"):
        due = status.get("nextRotationTime")
        tree.add(line(f"password of {rotated}", f", next rotation {due}" if due else ""))
    if sid := status.get("sid"):
        tree.add(line((f"last run {sid}", "dim")))
    return tree


def _node(kind: str, found: KubernetesObject, *more: str) -> Tree:
    ready = found.condition("Ready")
    reason = ready.get("reason", "")
    if found.deleting:
        state = ("being deleted", "yellow")
    elif found.status.get("observedGeneration") != found.generation:
        state = (
            "not looked at yet" if not ready else f"not looked at since its last change ({reason})",
            "yellow",
        )
    elif ready.get("status") == "True":
        state = (f"Ready {reason}", "green")
    else:
        state = (f"not Ready {reason}", "yellow" if reason in WAITING else "red")
    return Tree(line((f"{kind} {found.key}", "bold"), "  ", state, *more), guide_style="dim")


def _add_conditions(tree: Tree, found: KubernetesObject) -> None:
    """Add what is wrong or worth knowing: the cause once, though several conditions repeat it."""
    told: set[str] = set()
    for condition in found.status.get("conditions") or ():
        name, state, message = condition["type"], condition["status"], condition.get("message", "")
        is_trouble = (state == "True") == (name in TROUBLE_WHEN_TRUE)
        if (
            (not is_trouble and not message)
            or (message in told)
            or (is_trouble and not message and name != "Ready")
        ):
            continue
        told.add(message)
        text = f"{name} {state} {condition['reason']}" + (f": {message}" if message else "")
        tree.add(line((text, ("yellow" if condition["reason"] in WAITING else "red") if is_trouble else "")))


def _last_repair(plan: Plan) -> Mapping[str, Any]:
    """What the history has about the last run that repaired what had drifted; empty where there is none."""
    return next((run for run in plan.status.get("history") or () if run.get("repaired")), {})

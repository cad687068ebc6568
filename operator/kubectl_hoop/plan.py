"""What a run would do about a plan, as a diff of SQL."""

import sys
from pathlib import Path

import click

from hoop_operator.errors import ObjectNotFound
from hoop_operator.reconcile.approval import UNTOLD
from hoop_operator.reconcile.dry_run import Preview, preview_plans
from hoop_operator.reconcile.manifests import Manifests, read_manifests
from hoop_operator.reconcile.objects import Key, Plan
from kubectl_hoop.changes import diff, of_statements
from kubectl_hoop.client import Cluster
from kubectl_hoop.objects import PLAN_KIND, add_sources, read_plan, settings_for, with_endpoint
from kubectl_hoop.options import (
    FINE,
    WRONG,
    as_instance,
    by_another_way,
    complete_plans,
    note,
    of_kind,
    on_cluster,
    say,
)
from kubectl_hoop.pending import show_pending


@click.command(
    epilog="Example: helm template shop ./chart | kubectl hoop plan -n shop -f -",
    short_help="Show the SQL that a plan comes to, as a diff.",
)
@click.argument("name", required=False, shell_complete=complete_plans, callback=of_kind(PLAN_KIND))
@click.option(
    "-f", "--filename", "filenames", multiple=True, metavar="FILE", help="Plans in YAML; - is standard input."
)
@by_another_way
@as_instance
@on_cluster
async def plan(
    cluster: Cluster,
    name: str | None,
    filenames: tuple[str, ...],
    host: str | None,
    port: int | None,
    instance: str,
) -> int:
    """Show what a run would do about a plan of the cluster, or about those in files, and do nothing.

    A plan that waits for approval is shown as the operator computed it. Everything else is computed here: the server is
    read with the admin's credentials, which takes the right to read that Secret. What files lack, the HoopResource
    and its Secret for instance, is taken from the cluster. Exit code 1 where something cannot be applied.
    """
    if (name is None) == (not filenames):
        raise click.UsageError("name one HoopRolePlan, or files with -f")
    if name is not None:
        found = await read_plan(cluster.api, Key(cluster.namespace, name))
        if found.waits_for_approval and not found.is_new_input:
            show_pending(found)
            return FINE
        manifests = Manifests(plans={found.key: found})
    else:
        manifests = read_manifests(dict(map(_read, filenames)), cluster.namespace)
        if not manifests.plans and not manifests.problems:
            manifests.problems.append("no HoopRolePlan in the files, so there is nothing to plan")
        if manifests.problems:
            for problem in manifests.problems:
                note(problem)
            return WRONG
        for key, in_file in manifests.plans.items():
            manifests.plans[key] = await _with_status(cluster, in_file)
    await add_sources(cluster.api, manifests)
    return await show(manifests, host=host, port=port, instance=instance)


async def show(manifests: Manifests, *, host: str | None, port: int | None, instance: str) -> int:
    """Print what runs would do, resource by resource, for each is served by an operator of its own agent id."""
    previews: list[Preview] = []
    for key in sorted({found.resource_key for found in manifests.plans.values()}):
        resource = manifests.resources.get(key)
        of_it = {name: found for name, found in manifests.plans.items() if found.resource_key == key}
        part = Manifests(
            {key: with_endpoint(resource, host, port)} if resource else {},
            of_it,
            manifests.contents,
            manifests.namespaces,
        )
        of_resource = await preview_plans(part, settings_for(resource, instance))
        if (host, port) != (None, None):
            # The server's address is part of a checksum, and this is not the one that the operator goes to.
            for preview in of_resource:
                preview.approval = UNTOLD if preview.approval else preview.approval
        previews += of_resource
    for preview in previews:
        _show(preview)
    return WRONG if any(preview.problems for preview in previews) else FINE


def _show(preview: Preview) -> None:
    place = f" on HoopResource {preview.plan.resource_key}"
    if preview.connection is not None:
        version = f", PostgreSQL {preview.server_version}" if preview.server_version else ""
        place += f" ({preview.connection.endpoint}{version})"
    say((f"HoopRolePlan {preview.plan.key}: role {preview.role or 'without a name'}{place}", "bold"))
    for reason, message in dict.fromkeys(preview.problems):
        say((f"cannot be applied: {reason}: {message}", "red"))
    for remark in preview.remarks:
        say((f"note: {remark}", "yellow"))
    if preview.suspended:
        say("suspended: nothing is done until spec.suspend is false")
    elif preview.statements:
        if preview.approval:
            say((preview.approval, "yellow"))
        if preview.problems:
            say("what is extra is revoked all the same:")
        for text, style in diff(of_statements(preview.statements)):
            say((text, style))
    elif not preview.problems:
        say(("nothing to do", "green"))


async def _with_status(cluster: Cluster, plan: Plan) -> Plan:
    """A plan as a file has it, with what the cluster knows of the one of its name: which role is its own, say."""
    try:
        known = await read_plan(cluster.api, plan.key)
    except ObjectNotFound:
        return plan
    return Plan.parse({**plan.body, "status": known.status})


def _read(filename: str) -> tuple[str, str]:
    origin = "standard input" if filename == "-" else filename
    try:
        return origin, (sys.stdin.buffer.read() if filename == "-" else Path(filename).read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise click.UsageError(f"{origin}: {why}") from None

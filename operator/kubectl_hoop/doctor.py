"""What is wrong with a resource's admin, tried from where the person sits, and the SQL that puts it right."""

import re
from collections.abc import Sequence

import click

from hoop_operator.credentials.connection import Connection
from hoop_operator.errors import ResourceFailure, ResourceReason, ServerError
from hoop_operator.postgres.capabilities import Capabilities, read_capabilities
from hoop_operator.postgres.session import open_sessions
from hoop_operator.reconcile.context import address_allowed, limits_of
from hoop_operator.reconcile.dry_run import preview_plans
from hoop_operator.reconcile.manifests import Manifests
from hoop_operator.reconcile.objects import Key, Resource
from hoop_operator.reconcile.register import judge, refusal
from hoop_operator.settings import Settings
from kubectl_hoop.client import Cluster
from kubectl_hoop.objects import (
    admin_connection,
    gather,
    plans_on,
    read_resource,
    settings_for,
    with_endpoint,
)
from kubectl_hoop.options import (
    FINE,
    WRONG,
    as_instance,
    by_another_way,
    note,
    on_cluster,
    resource_name,
    say,
)

_REMEDY = re.compile(r"\b(?:run|covered after): (?P<sql>.*;)", re.DOTALL)
"""How every message of the operator ends that has SQL for an administrator."""

_IN_DATABASE = re.compile(r'\bin database (?P<name>"(?:[^"]|"")*")')


@click.command(
    epilog="Example: kubectl hoop doctor my-postgres -n shop --host localhost --port 15432",
    short_help="Find out what the admin of a resource lacks.",
)
@resource_name
@by_another_way
@as_instance
@on_cluster
async def doctor(cluster: Cluster, resource: str, host: str | None, port: int | None, instance: str) -> int:
    """Connect with a resource's admin credentials, and say what stands against it and each of its plans.

    Prints the SQL that helps, for an administrator to run. Nothing is written to the server. The connection is made
    from here: a server that only the cluster reaches needs a forwarded port, and --host and --port. Exit code 1 where
    something is wrong.
    """
    found = await read_resource(cluster.api, Key(cluster.namespace, resource))
    if not found.is_postgres:
        note(
            f"HoopResource {found.key} is {found.spec.type}/{found.spec.subtype}; only database/postgres has an admin"
        )
        return WRONG
    plans, everywhere = await plans_on(cluster.api, found)
    if not everywhere:
        note(f"you may not list plans of other namespaces: those of {found.key.namespace} are looked at")
    manifests = await gather(cluster.api, found, plans)
    manifests.resources[found.key] = found = with_endpoint(found, host, port)
    settings = settings_for(found, instance)
    problem = await _examine(found, manifests, settings)
    if problem is not None:
        say(("wrong ", "red"), problem)
        return _prescribe([problem])
    problems: list[str] = []
    for preview in await preview_plans(manifests, settings):
        against = [f"{reason}: {message}" for reason, message in dict.fromkeys(preview.problems)]
        if not against and not any(statement.verifier_of for statement in preview.statements):
            # Default privileges, whose SQL names the role, so that it has to be there first.
            against = [remark for remark in preview.remarks if _REMEDY.search(remark)]
        problems += against
        suspended = " (suspended, not looked at)" if preview.suspended else ""
        say(
            ("wrong ", "red") if against else ("ok    ", "green"),
            f"HoopRolePlan {preview.plan.key}{suspended}",
        )
        for text in against:
            say(f"      {text}")
    return _prescribe(problems)


async def _examine(resource: Resource, manifests: Manifests, settings: Settings) -> str | None:
    """What keeps the resource itself from being registered; None, and a line that it is in order, otherwise."""
    try:
        connection = await admin_connection(resource, manifests, settings)
    except ResourceFailure as failure:
        return f"HoopResource {resource.key}: {failure.reason}: {failure.message}"
    assert connection is not None  # noqa: S101 -- it is one of postgres
    try:
        capabilities = await _ask(connection, settings)
        reason, message = judge(capabilities)
    except ServerError as error:
        reason, message = refusal(error, connection)
        return f"HoopResource {resource.key}: {reason}: {message}"
    if reason is not ResourceReason.REGISTERED:
        return f"HoopResource {resource.key}: {reason}: {message}"
    who = "superuser" if capabilities.is_superuser else "CREATEROLE"
    say(
        ("ok    ", "green"),
        f"HoopResource {resource.key}: {connection.endpoint}, PostgreSQL {capabilities.version_text}, admin "
        f'"{capabilities.admin}" ({who})',
    )
    return None


async def _ask(connection: Connection, settings: Settings) -> Capabilities:
    async with (
        open_sessions(connection, limits_of(settings), address_allowed) as sessions,
        sessions.transaction() as transaction,
    ):
        return await read_capabilities(transaction)


def _prescribe(problems: Sequence[str]) -> int:
    """Print the SQL of all problems, each once, ready to be copied, with the database that it is to be run in."""
    # Those for the server as a whole come first, those for each database together.
    remedies: dict[str | None, dict[str, None]] = {None: {}}
    for text in problems:
        if remedy := _REMEDY.search(text):
            found = _IN_DATABASE.search(text)
            remedies.setdefault(found["name"] if found else None, {})[remedy["sql"]] = None
    if any(remedies.values()):
        say()
        say(("-- SQL for an administrator", "bold"))
    for database, statements in remedies.items():
        if database is not None:
            say((f"-- in database {database}", "dim"))
        for sql in statements:
            say(sql)
    return WRONG if problems else FINE

"""What a run of each plan would do to its server: the same checks and the same planner, and not one statement sent.

resource        credentials from the files, as registration reads them from the cluster
admit           may the plan refer to it, what does it ask for
look            one snapshot for all plans of a resource
plan            each role against what was seen
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hoop_operator.credentials.connection import Connection, Endpoint
from hoop_operator.credentials.follow import Follower
from hoop_operator.credentials.references import Values
from hoop_operator.credentials.role_secret import connection_secret
from hoop_operator.errors import PlanFailure, PlanReason, ResourceFailure, ResourceReason, ServerError
from hoop_operator.naming import role_name
from hoop_operator.planner.adoption import account_of
from hoop_operator.planner.model import DesiredRole
from hoop_operator.planner.plan import plan_role
from hoop_operator.planner.statements import Statement
from hoop_operator.postgres.capabilities import read_capabilities
from hoop_operator.postgres.session import Sessions, open_sessions
from hoop_operator.reconcile import approval
from hoop_operator.reconcile.admission import admit, check_secret_name, deciding_selector, not_ready, usable
from hoop_operator.reconcile.adoption import still_there
from hoop_operator.reconcile.context import address_allowed, limits_of, serves
from hoop_operator.reconcile.desired import desired_role, secret_contents
from hoop_operator.reconcile.manifests import Manifests
from hoop_operator.reconcile.objects import Key, Plan, Reading, Resource
from hoop_operator.reconcile.register import connection_of, gravest, judge, refusal
from hoop_operator.reconcile.turn import look
from hoop_operator.settings import Settings

Claims = dict[tuple[Endpoint, str], Key]
"""Which plan is the first to ask for a role that does not exist yet."""


@dataclass(slots=True)
class Preview:
    """What a run of one plan would do, and what stands against it."""

    plan: Plan
    role: str | None = None
    connection: Connection | None = None
    server_version: str | None = None
    """As people say it, such as 18.6; None where the server was not asked."""
    suspended: bool = False
    statements: tuple[Statement, ...] = ()
    """In order. Where there are problems these are revokes alone, which a run makes all the same."""
    approval: str | None = None
    """What the statements wait for, or that they are approved; None where they need no approval."""
    problems: list[tuple[PlanReason, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What a person should know although nothing is done about it."""

    def fail(self, failure: PlanFailure) -> None:
        """Add what stands against the plan."""
        self.problems.append((failure.reason, failure.message))


async def preview_plans(manifests: Manifests, settings: Settings) -> list[Preview]:
    """Look ahead at every plan, ordered by resource and then by name."""
    plans = sorted(manifests.plans.values(), key=lambda plan: (plan.resource_key, plan.key))
    previews = [Preview(plan) for plan in plans]
    by_resource: dict[Key, list[Preview]] = defaultdict(list)
    for preview in previews:
        by_resource[preview.plan.resource_key].append(preview)
    claims: Claims = {}
    follower = Follower(settings)
    for key, group in by_resource.items():
        resource = manifests.resources.get(key)
        admitted = [preview for preview in group if _is_admitted(preview, resource, manifests)]
        if resource is not None:
            values = await follower.follow(resource.references, key.namespace)
            await _preview_on(resource, admitted, manifests, values, settings, claims)
    return previews


def _is_admitted(preview: Preview, resource: Resource | None, manifests: Manifests) -> bool:
    plan = preview.plan
    if resource is not None:
        with suppress(ValueError):
            preview.role = role_name(resource.api_name, plan.spec.role)
    labels = manifests.namespaces.get(plan.key.namespace)
    if labels is None and deciding_selector(plan, resource) is not None:
        preview.fail(
            PlanFailure(
                PlanReason.REFERENCE_NOT_ALLOWED,
                f"it cannot be judged: spec.allowedNamespaces of HoopResource {plan.resource_key} selects namespaces "
                f"by their labels, and no file has the Namespace {plan.key.namespace}; add it",
            )
        )
        return False
    try:
        admit(plan, resource, labels)
        usable(plan, resource)
    except PlanFailure as failure:
        preview.suspended = failure.reason is PlanReason.SUSPENDED
        if not preview.suspended:
            preview.fail(failure)
        return False
    return True


async def _preview_on(
    resource: Resource,
    previews: Sequence[Preview],
    manifests: Manifests,
    values: Values,
    settings: Settings,
    claims: Claims,
) -> None:
    """Look ahead at the plans that may refer to a resource."""
    connection: Connection | None = None
    failure: PlanFailure | None = None
    try:
        connection = _register(resource, manifests, values, settings)
    except PlanFailure as not_registered:
        failure = not_registered
    asked: dict[DesiredRole, Preview] = {}
    for preview in previews:
        preview.connection = connection
        if failure is not None:
            preview.fail(failure)
        desired = _desired(preview, resource, connection, manifests, settings)
        if desired is not None and not preview.problems:
            asked[desired] = preview
    if not asked or connection is None:
        return
    async with open_sessions(connection, limits_of(settings), address_allowed) as sessions:
        try:
            await _ask(sessions, resource, connection, asked, claims)
        except ServerError as error:
            for preview in asked.values():
                preview.fail(PlanFailure(PlanReason.SERVER_UNREACHABLE, str(error)))


def _register(
    resource: Resource, manifests: Manifests, values: Values, settings: Settings
) -> Connection | None:
    """The admin connection of a postgres resource; None for any other.

    Raises
    ------
    PlanFailure
        Why no plan could be run on it, as far as that can be told without its server.
    """
    if not serves(settings, resource):
        agent = resource.spec.agent_id
        raise not_ready(
            resource,
            f"its spec.agentId is {agent or 'not set'}, another than this environment's HOOP_AGENT_ID; "
            + (f"set HOOP_AGENT_ID={agent}" if agent else "unset HOOP_AGENT_ID"),
        )
    failures: list[ResourceFailure] = []
    connection: Connection | None = None
    contents = [manifests.contents.get(source) if source else None for source in resource.sources]
    try:
        connection = connection_of(resource, contents, settings.allowed_hosts, values)
    except ResourceFailure as failure:
        failures.append(failure)
    for role in resource.spec.roles:
        try:
            connection_secret(role.secret, f"spec.roles[{role.name}].secret", values)
        except ResourceFailure as failure:
            failures.append(failure)
    if failures:
        worst = gravest(failures)
        raise not_ready(resource, f"{worst.reason}: {worst.message}")
    return connection


def _desired(
    preview: Preview,
    resource: Resource,
    connection: Connection | None,
    manifests: Manifests,
    settings: Settings,
) -> DesiredRole | None:
    """What a plan asks for; all that speaks against it goes into the preview."""
    plan = preview.plan
    reading = Reading("Secret", plan.key.namespace, plan.secret_name)
    readers = [key for key, other in manifests.resources.items() if reading in other.readings]
    try:
        check_secret_name(plan, readers)
    except PlanFailure as failure:
        preview.fail(failure)
    try:
        desired = desired_role(plan, resource, settings.instance)
        if connection is not None:
            secret_contents(plan, resource, connection, desired.name, "")
    except PlanFailure as failure:
        preview.fail(failure)
        return None
    return _with_predecessor_looked_for(desired, manifests)


def _with_predecessor_looked_for(desired: DesiredRole, manifests: Manifests) -> DesiredRole:
    """As far as files can tell: what they do not hold may be in the cluster all the same."""
    adoption = desired.adoption
    if adoption is None or adoption.predecessor is None:
        return desired
    key = Key(adoption.predecessor.namespace, adoption.predecessor.plan)
    obstacle = still_there(key) if key in manifests.plans else None
    return replace(desired, adoption=replace(adoption, obstacle=obstacle))


async def _ask(
    sessions: Sessions,
    resource: Resource,
    connection: Connection,
    asked: Mapping[DesiredRole, Preview],
    claims: Claims,
) -> None:
    """Plan roles against what their server holds now."""
    capabilities = None
    try:
        async with sessions.transaction() as transaction:
            capabilities = await read_capabilities(transaction)
        reason, message = judge(capabilities)
    except ServerError as error:
        reason, message = refusal(error, connection)
    for preview in asked.values():
        preview.server_version = capabilities.version_text if capabilities else None
        if reason is not ResourceReason.REGISTERED:
            preview.fail(not_ready(resource, f"{reason}: {message}"))
    if capabilities is None or reason is not ResourceReason.REGISTERED:
        return
    known = {
        replace(desired, known_oid=preview.plan.known_oid(capabilities.system_identifier)): preview
        for desired, preview in asked.items()
    }
    server, databases = await look(sessions, capabilities, list(known))
    for desired, preview in known.items():
        if desired.name not in server.roles:
            first = claims.setdefault((connection.endpoint, desired.name), preview.plan.key)
            if first != preview.plan.key:
                preview.fail(
                    PlanFailure(
                        PlanReason.ROLE_CONFLICT,
                        f'role "{desired.name}" is what HoopRolePlan {first} asks for too; choose another spec.role',
                    )
                )
                continue
        planned = plan_role(desired, server, databases)
        if planned.takes_over is not None:
            of_other_plan = desired.adoption is not None and desired.adoption.predecessor is not None
            proviso = ", if that does not exist any more: a run asks the cluster" if of_other_plan else ""
            preview.remarks.append(account_of(desired, planned.takes_over) + proviso)
        preview.statements = planned.statements
        preview.problems += planned.problems
        if planned.statements and approval.is_manual(preview.plan, resource):
            preview.approval = approval.foretell(
                preview.plan, planned.statements, connection.endpoint, capabilities.system_identifier
            )
        preview.remarks += [
            *(
                f"not covered are objects that this owner creates later: {owner}"
                for owner in planned.uncovered_owners
            ),
            *(
                f"left out, because an extension keeps it from PUBLIC: {routine}"
                for routine in planned.withheld_routines
            ),
            *planned.observations,
        ]

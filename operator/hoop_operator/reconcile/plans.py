"""What is done about a HoopRolePlan, whatever woke it."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from hoop_operator.cluster import paths
from hoop_operator.cluster.events import post_event
from hoop_operator.cluster.finalizers import remove_finalizer
from hoop_operator.crd import Privilege
from hoop_operator.credentials.connection import Connection, Endpoint
from hoop_operator.errors import (
    ClusterError,
    ObjectConflict,
    ObjectNotFound,
    Overtaken,
    PlanFailure,
    PlanReason,
    ResourceReason,
    RolesChanged,
    ServerError,
    ServerUnreachable,
)
from hoop_operator.naming import role_name
from hoop_operator.planner.model import DesiredRole, Identity
from hoop_operator.planner.scopes import Scope, parse_scope
from hoop_operator.postgres.session import Sessions, open_sessions
from hoop_operator.postgres.snapshot import Capabilities, read_capabilities
from hoop_operator.reconcile import approval
from hoop_operator.reconcile import secret as plan_secret
from hoop_operator.reconcile.admission import check_admission, check_secret_name, not_ready, usable
from hoop_operator.reconcile.adoption import with_predecessor_asked_for
from hoop_operator.reconcile.announce import plan_events
from hoop_operator.reconcile.contention import ATTEMPTS
from hoop_operator.reconcile.context import Context, address_allowed
from hoop_operator.reconcile.desired import desired_role, secret_contents
from hoop_operator.reconcile.inbox import Inbox
from hoop_operator.reconcile.objects import ABANDON, FINALIZER, Fingerprint, Key, Plan, Reading, Resource
from hoop_operator.reconcile.register import Registration
from hoop_operator.reconcile.remove import Outcome, Removal, remove_roles
from hoop_operator.reconcile.rotation import TRIGGER, Schedule
from hoop_operator.reconcile.run import Run, status_of
from hoop_operator.reconcile.single import SingleFlight
from hoop_operator.reconcile.turn import Agreements, Turn, carry_out

UNFORESEEN = "an error that nobody foresaw, the operator's log has it; it will be tried again"

logger = logging.getLogger(__name__)


class Plans:
    """Finds each plan's server, has it carried out there, and says on the object how that went."""

    def __init__(
        self,
        context: Context,
        inbox_of: Callable[[Endpoint], Inbox],
        wake_resource: Callable[[Key, str], None],
        count_users: Callable[[Key], None],
    ) -> None:
        self._context = context
        self._inbox_of = inbox_of
        self._wake_resource = wake_resource
        self._count_users = count_users
        self._agreements = Agreements()
        self._handled: dict[Key, Fingerprint] = {}
        self._reported: dict[Key, Fingerprint] = {}
        self._in_turn: dict[Key, str | None] = {}
        self._secret_versions: dict[Key, str | None] = {}
        self._told_in_turn: dict[Key, str | None] = {}
        self._endings: dict[Key, asyncio.Task[None]] = {}
        self._flight = SingleFlight(self._route, self._retry)
        self._rotations = Schedule(
            context.clock, lambda: datetime.now(UTC), lambda key: self.wake(key, TRIGGER)
        )

    def seen(self, plan: Plan) -> None:
        """Take note of a plan as the API server has it now; see to it if it asks for something new."""
        known = self._context.memory.plans.get(plan.key)
        if not self._see(plan):
            return
        if known is not None and known.uid != plan.uid:
            self._agreements.forget(known)
        if self._handled.get(plan.key) != plan.fingerprint or (known and _was_wiped(known, plan)):
            self.wake(plan.key, "spec")

    def _see(self, plan: Plan) -> bool:
        """Keep a plan, and when its password is due, unless a newer version is known; tell whether it was kept."""
        if not self._context.memory.see_plan(plan):
            return False
        self._rotations.note(plan)
        return True

    def gone(self, key: Key) -> None:
        """Take note that a plan does not exist any more."""
        plan = self._context.memory.plans.get(key)
        if plan is None:
            return
        self._context.memory.forget_plan(key)
        self._rotations.forget(key)
        self._context.clock.settle(("plan", key))
        self._agreements.forget(plan)
        for known in (self._handled, self._reported, self._secret_versions, self._told_in_turn):
            known.pop(key, None)
        self._count_users(plan.resource_key)

    def secret_changed(self, key: Key, resource_version: str | None) -> None:
        """Take note that a plan's Secret is now of another version, None when it is gone."""
        if key in self._in_turn:
            self._told_in_turn[key] = resource_version  # the turn's own write, as likely as not
        elif key in self._secret_versions and self._secret_versions[key] != resource_version:
            self.wake(key, "secret")

    def wake(self, key: Key, trigger: str) -> None:
        """Have a plan seen to, soon."""
        if key in self._in_turn:
            self._in_turn[key] = trigger
        else:
            self._flight.wake(key, trigger)

    async def close(self) -> None:
        """Stop what is under way."""
        await self._flight.close()
        for ending in self._endings.values():
            ending.cancel()
        await asyncio.gather(*self._endings.values(), return_exceptions=True)

    async def _route(self, key: Key, trigger: str) -> None:
        """Bring a plan to its server's inbox, or end its run where the server is not needed for that."""
        memory = self._context.memory
        plan = memory.plans.get(key)
        if plan is None:
            return
        try:
            resource = await self._resource_of(plan)
            served = resource or memory.former_resources.get(plan.resource_key)
            if served is not None and not self._context.serves(served):
                return
            self._handled[key] = plan.fingerprint
            if plan.deleting:
                await self._route_removal(plan, resource, trigger)
                return
            run = self._new_run(plan, trigger)
            try:
                registration = await self._registration_of(plan, resource)
                if registration is not None and registration.connection is not None:
                    self._inbox_of(registration.connection.endpoint).put(plan.resource_key, key, trigger)
            except PlanFailure as failure:
                run.fail(failure)
                await self._finish(run)
                self._count_users(plan.resource_key)
        except ClusterError as error:
            logger.warning("Plan %s waits for the Kubernetes API: %s", key, error)
            self._retry(key, trigger)

    def _retry(self, key: Key, trigger: str) -> None:
        self._context.clock.retry(("plan", key), lambda: self.wake(key, trigger))

    def _new_run(self, plan: Plan, trigger: str) -> Run:
        status = plan.status
        if status.get("observedGeneration") != plan.generation:
            trigger = "spec"
        elif plan.is_new_input:
            trigger = "annotation"
        return Run(
            plan, trigger, new_input=plan.is_new_input and self._reported.get(plan.key) != plan.fingerprint
        )

    async def _resource_of(self, plan: Plan) -> Resource | None:
        """The plan's resource, asked for by name where no watch has brought it yet."""
        memory, key = self._context.memory, plan.resource_key
        if key not in memory.resources:
            with suppress(ObjectNotFound, ValidationError):
                memory.see_resource(Resource.parse(await self._context.api.get(paths.hoop_resource(*key))))
        return memory.resources.get(key)

    async def _registration_of(self, plan: Plan, resource: Resource | None) -> Registration | None:
        """What is known of the plan's resource; None while it is being registered, which will wake the plan again.

        Raises
        ------
        PlanFailure
            Why the plan cannot be carried out now.
        """
        await check_admission(self._context.api, plan, resource)
        resource = usable(plan, resource)
        if not resource.is_postgres:
            desired_role(plan, resource, self._context.settings.instance)
        registration = self._context.memory.registrations.get(resource.key)
        if registration is not None and not registration.ready:
            told = f": {registration.message}" if plan.key.namespace == resource.key.namespace else ""
            raise not_ready(resource, f"{registration.reason}{told}")
        return registration

    async def _route_removal(self, plan: Plan, resource: Resource | None, trigger: str) -> None:
        if not plan.has_finalizer:
            return
        if plan.leaves_role or await self._never_began(plan, resource):
            await self._let_go(plan, None)
            return
        registration = self._context.memory.registrations.get(plan.resource_key)
        if resource is not None and registration is None:
            return  # the registration under way wakes it
        connection = await self._connection_for_removal(plan.resource_key)
        if connection is not None:
            self._inbox_of(connection.endpoint).put(plan.resource_key, plan.key, trigger)
        elif await self._is_gone_for_good(plan.resource_key):
            await self._let_go(plan, _left_behind(plan, "its HoopResource is gone"))
        else:
            run = self._new_run(plan, trigger)
            why = f"{registration.reason}: {registration.message}" if registration else ""
            run.fail(
                PlanFailure(
                    PlanReason.RESOURCE_NOT_READY,
                    f"the role cannot be removed while HoopResource {plan.resource_key.name} is not ready: {why}; to "
                    f'let it go without touching PostgreSQL, set the annotation {ABANDON}: "true"',
                )
            )
            await self._finish(run)

    async def _never_began(self, plan: Plan, resource: Resource | None) -> bool:
        """Whether a plan may not refer to its resource and never did: then somebody else put our finalizer on it."""
        if plan.status.get("role"):
            return False
        try:
            await check_admission(self._context.api, plan, resource)
        except PlanFailure as failure:
            return failure.reason is PlanReason.REFERENCE_NOT_ALLOWED
        return False

    async def _connection_for_removal(self, resource: Key) -> Connection | None:
        """A resource's connection, or the last one that worked where there will be no other."""
        memory = self._context.memory
        registration = memory.registrations.get(resource)
        if registration is not None and registration.ready:
            return registration.connection
        return memory.last_good.get(resource) if await self._is_gone_for_good(resource) else None

    async def _is_gone_for_good(self, resource: Key) -> bool:
        """Whether a resource does not exist, or is going with its namespace and has lost its credentials already."""
        memory = self._context.memory
        if resource not in memory.resources:
            return True
        registration = memory.registrations.get(resource)
        return (
            registration is not None
            and registration.reason is ResourceReason.CREDENTIALS_UNRESOLVED
            and await self._namespace_terminates(resource.namespace)
        )

    async def _namespace_terminates(self, name: str) -> bool:
        try:
            body = await self._context.api.get(paths.namespace(name))
        except ObjectNotFound:
            return True
        return "deletionTimestamp" in body["metadata"]

    async def _let_go(self, plan: Plan, warning: str | None) -> None:
        """Let a deleted plan go, with a warning about what it leaves behind."""
        if warning:
            logger.warning("Plan %s is let go: %s", plan.key, warning)
            await post_event(
                self._context.api,
                plan.body,
                type="Warning",
                reason="RoleLeftBehind",
                message=warning,
                action="Remove",
            )
        try:
            await remove_finalizer(self._context.api, plan.body, FINALIZER)
        except ObjectNotFound:
            self._vanished(plan)

    def _vanished(self, plan: Plan) -> None:
        """Take note that a plan does not exist any more, although no watch has told of it: one may have broken then."""
        known = self._context.memory.plans.get(plan.key)
        if known is not None and known.uid == plan.uid:
            self.gone(plan.key)

    async def take_turn(self, resource_key: Key, waiting: Mapping[Key, str]) -> None:
        """Carry out the plans of one resource that wait in a server's inbox.

        What is said of them on the objects is written while the server is already busy with the next turn; no further
        ahead than that.
        """
        plans = self._take(resource_key, waiting)
        self._in_turn.update((plan.key, None) for plan, _ in plans)
        self._handled.update((plan.key, plan.fingerprint) for plan, _ in plans)
        changes = [self._new_run(plan, trigger) for plan, trigger in plans if not plan.deleting]
        removals = [self._new_run(plan, trigger) for plan, trigger in plans if plan.deleting]
        registration = self._context.memory.registrations.get(resource_key)
        connection = registration.connection if registration is not None and registration.ready else None
        try:
            if registration is None or connection is None or self._is_outdated(registration):
                changes = []  # the registration under way wakes them
            elif changes:
                await self._change(registration.resource, connection, changes)
            if removals:
                await self._remove(resource_key, removals)
        except asyncio.CancelledError:
            changes = []  # cut short: nothing may be said of how they ended
            raise
        finally:
            if (former := self._endings.get(resource_key)) is not None:
                await asyncio.wait([former])
            ended = [plan.key for plan, _ in plans]
            self._endings[resource_key] = asyncio.create_task(self._end_turn(resource_key, ended, changes))

    def _take(self, resource_key: Key, waiting: Mapping[Key, str]) -> list[tuple[Plan, str]]:
        """The plans of a turn, one for each role; others that name the same role are for a later turn to refuse."""
        resource = self._context.memory.resources.get(resource_key)
        plans: dict[str, tuple[Plan, str]] = {}
        for key, trigger in waiting.items():
            plan = self._context.memory.plans.get(key)
            if plan is None:
                continue
            role = plan.spec.role
            if resource is not None:
                # Other labels may derive the same name, the digest in it included.
                with suppress(ValueError):
                    role = role_name(resource.api_name, role)
            if key in self._in_turn or role in plans:
                self.wake(key, trigger)
            else:
                plans[role] = (plan, trigger)
        return list(plans.values())

    def _is_outdated(self, registration: Registration) -> bool:
        """Whether the resource was changed since, its guardrails for instance."""
        resource = self._context.memory.resources.get(registration.resource.key)
        return resource is None or (resource.uid, resource.generation) != (
            registration.resource.uid,
            registration.resource.generation,
        )

    async def _end_turn(self, resource_key: Key, plans: Sequence[Key], changes: Sequence[Run]) -> None:
        """Say how the runs of a turn ended, and see to plans that changed meanwhile."""
        try:
            results = await asyncio.gather(*map(self._finish, changes), return_exceptions=True)
            for run, result in zip(changes, results, strict=True):
                if isinstance(result, Exception):
                    logger.error(
                        "Telling how plan %s ended failed in a way that nobody foresaw",
                        run.plan.key,
                        exc_info=result,
                    )
                    self._retry(run.plan.key, "retry")
        finally:
            for key in plans:
                again = self._in_turn.pop(key)
                if key in self._told_in_turn and self._told_in_turn.pop(key) != self._secret_versions.get(
                    key
                ):
                    again = again or "secret"
                plan = self._context.memory.plans.get(key)
                if plan is not None and (again or self._handled.get(key) != plan.fingerprint):
                    self.wake(key, again or "spec")
            self._wake_neighbours(resource_key, changes)
            self._count_users(resource_key)
            if self._endings.get(resource_key) is asyncio.current_task():
                del self._endings[resource_key]

    def _wake_neighbours(self, resource_key: Key, changes: Sequence[Run]) -> None:
        """Have plans cover what the roles that may now create objects in their schemas are going to create there."""
        creators: dict[Scope, set[Key]] = defaultdict(set)
        for run in changes:
            if run.succeeded and run.statements and Privilege.CREATE in run.plan.spec.privileges:
                for scope in run.plan.spec.scopes:
                    creators[parse_scope(scope)].add(run.plan.key)
        memory = self._context.memory
        registration = memory.registrations.get(resource_key)
        if not creators or registration is None or registration.connection is None:
            return
        for resource in memory.resources_at(registration.connection.endpoint):
            for plan in memory.plans_of(resource):
                others = {key for scope in _scopes(plan) for key in creators.get(scope, ())} - {plan.key}
                if others:
                    self.wake(plan.key, "creators")

    async def _change(self, resource: Resource, connection: Connection, runs: list[Run]) -> None:
        try:
            asked = await self._admitted(resource, connection, runs)
            if not asked:
                return
            async with self._sessions(connection) as sessions:
                capabilities = await _capabilities(sessions)
                turn = Turn(
                    self._context.api,
                    sessions,
                    resource,
                    connection,
                    capabilities,
                    self._agreements,
                    self._context.settings.end_sessions_on_rotation,
                    self._context.memory.readers_of,
                )
                known = {
                    replace(desired, known_oid=run.plan.known_oid(capabilities.system_identifier)): run
                    for desired, run in asked.items()
                }
                await carry_out(turn, known)
        except Overtaken:
            for run in runs:
                run.overtaken = True
        except ServerError as error:
            _fail_undecided(runs, PlanFailure(PlanReason.SERVER_UNREACHABLE, str(error)))
            self._wake_resource(resource.key, "retry")
        except Exception:
            logger.exception("A turn of resource %s failed in a way that nobody foresaw", resource.key)
            _fail_undecided(runs, PlanFailure(PlanReason.APPLY_FAILED, UNFORESEEN))

    async def _admitted(
        self, resource: Resource, connection: Connection, runs: list[Run]
    ) -> dict[DesiredRole, Run]:
        """The runs that may be made, by what their plans ask for; the others end with all that is wrong."""
        admitted: dict[DesiredRole, Run] = {}
        for run in runs:
            run.resource_name = resource.api_name
            try:
                await check_admission(self._context.api, run.plan, resource)
                reading = Reading("Secret", run.plan.key.namespace, run.plan.secret_name)
                check_secret_name(run.plan, self._context.memory.readers_of(reading))
                desired = desired_role(run.plan, resource, self._context.settings.instance)
                desired = await with_predecessor_asked_for(self._context.api, desired)
                secret_contents(run.plan, resource, connection, desired.name, "")
            except PlanFailure as failure:
                run.fail(failure)
            except ClusterError as error:
                run.fail(PlanFailure(PlanReason.APPLY_FAILED, f"{error}; it will be tried again"))
            else:
                admitted[desired] = run
        return admitted

    async def _remove(self, resource_key: Key, runs: list[Run]) -> None:
        """Remove the roles of deleted plans, and let go of the plans whose role is gone."""
        registration = self._context.memory.registrations.get(resource_key)
        resource_serves = registration is not None and registration.ready
        connection = None
        with suppress(ClusterError):
            connection = await self._connection_for_removal(resource_key)
        if connection is None:
            # Not what it was when they were put into the inbox: they find another way, or wait.
            for run in runs:
                self.wake(run.plan.key, run.trigger)
            return
        try:
            async with self._sessions(connection) as sessions:
                capabilities = await _capabilities(sessions)
                await self._remove_all(sessions, capabilities, registration, runs)
        except Overtaken:
            for run in runs:
                await self._read_anew(run.plan)
        except ServerError as error:
            for run in runs:
                if resource_serves:
                    await self._end_removal(run, PlanFailure(PlanReason.SERVER_UNREACHABLE, str(error)))
                else:
                    await self._end_removal(run, f"its HoopResource is gone, and its server fails: {error}")
            self._wake_resource(resource_key, "retry")
        except Exception:
            logger.exception("A removal of resource %s failed in a way that nobody foresaw", resource_key)
            for run in runs:
                await self._end_removal(run, PlanFailure(PlanReason.APPLY_FAILED, UNFORESEEN))

    async def _remove_all(
        self,
        sessions: Sessions,
        capabilities: Capabilities,
        registration: Registration | None,
        runs: list[Run],
    ) -> None:
        roles: dict[str, Run] = {}
        desired: list[DesiredRole] = []
        for run in runs:
            plan = run.plan
            name = _recorded_role(plan, registration)
            if name is None:
                await self._let_go(plan, _left_behind(plan, "its name is not known any more"))
                continue
            identity = Identity(self._context.settings.instance, plan.key.namespace, plan.key.name)
            desired.append(
                DesiredRole(name, identity, known_oid=plan.known_oid(capabilities.system_identifier))
            )
            roles[name] = run

        async def still_wanted(role: DesiredRole) -> bool:
            return await self._is_still_deleting(roles[role.name].plan)

        outcomes = await remove_roles(Removal(sessions, capabilities, still_wanted), desired)
        await asyncio.gather(*(self._end_removal(roles[name], outcome) for name, outcome in outcomes.items()))

    async def _is_still_deleting(self, plan: Plan) -> bool:
        """Whether the API server, too, knows a plan as one that is to go; not where it cannot be asked."""
        try:
            now = Plan.parse(await self._context.api.get(paths.custom_object(plan.body)))
        except (ClusterError, ValidationError):
            return False
        return now.uid == plan.uid and now.deleting and now.has_finalizer

    async def _end_removal(self, run: Run, outcome: Outcome) -> None:
        plan = run.plan
        if isinstance(outcome, RolesChanged):
            await self._read_anew(plan)
            return
        if isinstance(outcome, PlanFailure):
            run.fail(outcome)
            await self._finish(run)
            return
        try:
            if outcome is None:
                await plan_secret.remove(self._context.api, plan)
            await self._let_go(plan, _left_behind(plan, outcome) if outcome else None)
        except ClusterError as error:
            logger.warning(
                "The role of plan %s is removed, but the plan cannot be let go yet: %s", plan.key, error
            )
            self._retry(plan.key, "retry")

    def _sessions(self, connection: Connection) -> AbstractAsyncContextManager[Sessions]:
        context = self._context
        return open_sessions(connection, context.limits, address_allowed, context.leading)

    async def _finish(self, run: Run) -> None:
        """Say on the object how a run ended, unless that is said already, and see that a failure is tried again."""
        plan, api, clock = run.plan, self._context.api, self._context.clock
        if run.overtaken:
            await self._read_anew(plan)
            return
        known = self._context.memory.plans.get(plan.key)
        if known is None or known.uid != plan.uid:
            return
        if run.secret_version is not None:
            self._secret_versions[plan.key] = run.secret_version
        approval.conclude(run)
        if not run.failed:
            clock.settle(("plan", plan.key))
        else:
            self._retry(plan.key, "retry")
        try:
            patch = status_of(run, datetime.now(UTC))
            if patch is not None:
                self._see(await self._write_status(plan, patch))
            self._reported[plan.key] = plan.fingerprint
            if patch is not None:
                logger.info("Plan %s, for %s: %s %s", plan.key, run.trigger, run.reason, run.message)
                for kind, reason, message in plan_events(run):
                    await post_event(
                        api, plan.body, type=kind, reason=reason, message=message, action="Apply"
                    )
        except ObjectNotFound:
            self._vanished(plan)
        except ObjectConflict:
            await self._read_anew(plan)
        except ClusterError as error:
            logger.warning("The outcome of plan %s could not be written: %s", plan.key, error)
            self._retry(plan.key, "retry")

    async def _write_status(self, plan: Plan, patch: Mapping[str, Any]) -> Plan:
        """Write a status over the one that the run began with, and over no other.

        Raises
        ------
        ObjectConflict
            Somebody else wrote a status meanwhile.
        ClusterError
            The API server failed us, or the plan is gone.
        """
        path = paths.custom_object(plan.body)
        known = plan
        for attempt in range(1, ATTEMPTS + 1):
            metadata = {"uid": plan.uid, "resourceVersion": known.body["metadata"]["resourceVersion"]}
            try:
                body = await self._context.api.merge_patch(
                    paths.status(path), {"metadata": metadata, "status": patch}
                )
                return Plan.parse(body)
            except ObjectConflict:
                known = Plan.parse(await self._context.api.get(path))
                if attempt == ATTEMPTS or known.uid != plan.uid or known.status != plan.status:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _read_anew(self, plan: Plan) -> None:
        """See to a plan again, as the API server has it now: somebody else is at work on it or on its role."""
        logger.info("Somebody else is at work on plan %s, looking again", plan.key)
        try:
            self.seen(Plan.parse(await self._context.api.get(paths.custom_object(plan.body))))
        except ObjectNotFound:
            self._vanished(plan)
            return
        except (ClusterError, ValidationError) as error:
            logger.warning("Plan %s cannot be read: %s", plan.key, error)
        self._retry(plan.key, "retry")


def _was_wiped(before: Plan, after: Plan) -> bool:
    """Whether somebody replaced the object and took away what we had written on it."""
    return bool(
        before.uid == after.uid
        and not after.deleting
        and ((before.has_finalizer and not after.has_finalizer) or (before.status and not after.status))
    )


def _scopes(plan: Plan) -> Iterator[Scope]:
    """The scopes of a plan as far as they can be read."""
    for text in plan.spec.scopes:
        with suppress(ValueError):
            yield parse_scope(text)


def _fail_undecided(runs: Sequence[Run], failure: PlanFailure) -> None:
    for run in runs:
        if run.succeeded:
            run.fail(failure)


def _left_behind(plan: Plan, why: str) -> str:
    role = plan.status.get("role") or "of the plan"
    return f"role {role} was left behind on the server: {why}; drop it by hand"


def _recorded_role(plan: Plan, registration: Registration | None) -> str | None:
    """The name of a plan's role as it derives from the resource's name in the status, or else from the resource.

    The role in the status is not taken at its word: who may write a status must not have any role dropped.
    """
    resource_name = plan.status.get("resourceName")
    if resource_name is None and registration is not None:
        resource_name = registration.resource.api_name
    with suppress(ValueError):
        return role_name(resource_name, plan.spec.role) if resource_name else None
    return None


async def _capabilities(sessions: Sessions) -> Capabilities:
    async with sessions.transaction() as transaction:
        capabilities = await read_capabilities(transaction)
    if capabilities.read_only:
        raise ServerUnreachable("the server is read-only (a standby)")
    return capabilities

"""What is done about a HoopRolePlan, whatever woke it."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from pydantic import ValidationError

from hoop_operator import metrics
from hoop_operator.cluster import paths
from hoop_operator.cluster.events import post_event
from hoop_operator.cluster.finalizers import remove_finalizer
from hoop_operator.credentials.connection import Connection, Endpoint
from hoop_operator.errors import (
    ClusterError,
    ObjectConflict,
    ObjectNotFound,
    Overtaken,
    PlanFailure,
    PlanReason,
    RolesChanged,
    ServerError,
    ServerUnreachable,
)
from hoop_operator.logs import about, object_reference
from hoop_operator.naming import role_name
from hoop_operator.planner.model import DesiredRole, Identity
from hoop_operator.postgres.capabilities import Capabilities, read_capabilities
from hoop_operator.postgres.session import Sessions, open_sessions
from hoop_operator.reconcile import approval
from hoop_operator.reconcile import secret as plan_secret
from hoop_operator.reconcile.admission import check_admission, check_secret_name, not_ready, usable
from hoop_operator.reconcile.adoption import with_predecessor_asked_for
from hoop_operator.reconcile.agreements import Agreements
from hoop_operator.reconcile.announce import Announcement, plan_events, role_left_behind, role_retained
from hoop_operator.reconcile.context import Context, address_allowed
from hoop_operator.reconcile.deletion import (
    connection_for_removal,
    is_gone_for_good,
    is_still_deleting,
    never_began,
    recorded_role,
)
from hoop_operator.reconcile.denied import tell_trouble
from hoop_operator.reconcile.desired import desired_role, secret_contents
from hoop_operator.reconcile.drift import CREATORS, DRIFT, RETRY, SECRET
from hoop_operator.reconcile.inbox import Inbox
from hoop_operator.reconcile.neighbours import neighbours_of_creators
from hoop_operator.reconcile.objects import ABANDON, FINALIZER, Fingerprint, Key, Plan, Reading, Resource
from hoop_operator.reconcile.outcome import count_run, write_status
from hoop_operator.reconcile.register import Registration
from hoop_operator.reconcile.remove import Removal, RemovalOutcome, remove_roles
from hoop_operator.reconcile.retries import is_tried_again
from hoop_operator.reconcile.rotation import TRIGGER, Schedule
from hoop_operator.reconcile.run import Run
from hoop_operator.reconcile.single import SingleFlight
from hoop_operator.reconcile.status import status_of
from hoop_operator.reconcile.turn import Turn, carry_out

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
        self._beside_creators: set[Key] = set()
        self._farewells: dict[Key, Announcement] = {}
        self._endings: dict[Key, asyncio.Task[None]] = {}
        self._flight = SingleFlight(self._see_to, self._retry)
        self._rotations = Schedule(
            context.clock, lambda: datetime.now(UTC), lambda key: self.wake(key, TRIGGER)
        )

    def seen(self, plan: Plan) -> None:
        """Take note of a plan as the API server has it now; see to it if it asks for something new."""
        known = self._context.memory.plans.get(plan.key)
        if not self._see(plan):
            return
        if self._handled.get(plan.key) != plan.fingerprint or (known and _was_wiped(known, plan)):
            self.wake(plan.key, "spec")

    def _see(self, plan: Plan) -> bool:
        """Keep a plan, and when its password is due, unless a newer version is known; tell whether it was kept."""
        former = self._context.memory.plans.get(plan.key)
        if not self._context.memory.see_plan(plan):
            return False
        if former is not None and former.uid != plan.uid:
            self._forget(former)
        self._rotations.note(plan)
        return True

    def gone(self, key: Key, uid: str) -> None:
        """Take note that a plan does not exist any more, be it that no watch told of it; another of its name stays."""
        plan = self._context.memory.plans.get(key)
        if plan is None or plan.uid != uid:
            return
        self._context.memory.forget_plan(key)
        self._forget(plan)

    def _forget(self, plan: Plan) -> None:
        """Keep nothing of a plan that does not exist any more, and have its resource count without it."""
        key = plan.key
        self._rotations.forget(key)
        self._context.clock.settle(("plan", key))
        self._agreements.forget(plan)
        for known in (
            self._handled,
            self._reported,
            self._secret_versions,
            self._told_in_turn,
            self._farewells,
        ):
            known.pop(key, None)
        self._beside_creators.discard(key)
        metrics.DRIFT.remove_by_labels(key._asdict())
        self._count_users(plan.resource_key)

    def secret_changed(self, key: Key, resource_version: str | None) -> None:
        """Take note that a plan's Secret is now of another version, None when it is gone."""
        if key in self._in_turn:
            self._told_in_turn[key] = resource_version  # the turn's own write, as likely as not
        elif key in self._secret_versions and self._secret_versions[key] != resource_version:
            self.wake(key, SECRET)

    def in_turn(self, resource: Key) -> bool:
        """Whether plans of a resource are being carried out."""
        return any(plan.key in self._in_turn for plan in self._context.memory.plans_of(resource))

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

    async def _see_to(self, key: Key, trigger: str) -> None:
        with about(object=object_reference("HoopRolePlan", *key), trigger=trigger):
            await self._route(key, trigger)

    async def _route(self, key: Key, trigger: str) -> None:
        """Bring a plan to its server's inbox, or end its run where the server is not needed for that."""
        memory = self._context.memory
        plan = memory.plans.get(key)
        if plan is None:
            self._context.clock.settle(("plan", key))
            return
        try:
            resource = await self._resource_of(plan)
            served = resource or memory.former_resources.get(plan.resource_key)
            if not self._exists(plan) or (served is not None and not self._context.serves(served)):
                self._context.clock.settle(("plan", key))
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
                if run.new_input and run.reason is PlanReason.RESOURCE_NOT_READY:
                    self._wake_resource(plan.resource_key, run.trigger)  # whoever asks has it tried at once
                await self._finish(run)
                self._count_users(plan.resource_key)
        except ClusterError as error:
            what = f"Plan {key} waits for the Kubernetes API"
            await tell_trouble(self._context, ("plan", key), plan.body, what, error)
            self._retry(key, trigger)

    def _retry(self, key: Key, trigger: str) -> None:
        self._context.clock.retry(("plan", key), lambda: self.wake(key, trigger))

    def _is_tried_again(self, run: Run) -> bool:
        memory, key = self._context.memory, run.plan.resource_key
        return is_tried_again(
            run,
            memory.resources.get(key),
            memory.registrations.get(key),
            self._context.settings,
        )

    def _new_run(self, plan: Plan, trigger: str) -> Run:
        status = plan.status
        if status.get("observedGeneration") != plan.generation:
            trigger = "spec"
        elif plan.is_new_input:
            trigger = "annotation"
        elif trigger == "spec":
            trigger = (
                DRIFT  # seen for the first time since a start, or with an annotation that asks for nothing
            )
        return Run(
            plan,
            trigger,
            new_input=plan.is_new_input and self._reported.get(plan.key) != plan.fingerprint,
            server=self._server_of(plan.resource_key),
        )

    def _server_of(self, resource: Key) -> str | None:
        registration = self._context.memory.registrations.get(resource)
        connection = registration.connection if registration else self._context.memory.last_good.get(resource)
        return str(connection.endpoint) if connection is not None else None

    async def _resource_of(self, plan: Plan) -> Resource | None:
        """The plan's resource, asked for by name where no watch has brought it yet."""
        memory, key = self._context.memory, plan.resource_key
        is_watched = self._context.settings.watches(key.namespace)
        if key in memory.resources or not (is_watched or plan.deleting):
            return memory.resources.get(key)
        # A resource taken for gone leaves its roles behind: whatever is not plainly absent is a failure here.
        try:
            resource = Resource.parse(await self._context.api.get(paths.hoop_resource(*key)))
        except ObjectNotFound:
            return memory.resources.get(key)
        except ValidationError:
            raise ClusterError(
                f"HoopResource {key} does not follow the schema of this version of the operator; bring operator and "
                f"CRDs to one version"
            ) from None
        if memory.see_resource(resource) and not is_watched:
            self._wake_resource(key, "plans")
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
        if plan.leaves_role:
            await self._let_go(plan, "retained", role_retained(plan))
            return
        if await never_began(self._context, plan, resource):
            await self._let_go(plan)
            return
        registration = self._context.memory.registrations.get(plan.resource_key)
        if resource is not None and registration is None:
            return  # the registration under way wakes it
        connection = await connection_for_removal(self._context, plan.resource_key)
        if connection is not None:
            self._inbox_of(connection.endpoint).put(plan.resource_key, plan.key, trigger)
        elif await is_gone_for_good(self._context, plan.resource_key):
            await self._let_go(plan, "left_behind", role_left_behind(plan, "its HoopResource is gone"))
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

    async def _let_go(
        self, plan: Plan, outcome: str | None = None, announcement: Announcement | None = None
    ) -> None:
        """Let a deleted plan go, and tell what became of its role, if it had one; once, however often that fails."""
        if announcement is not None and self._farewells.get(plan.key) != announcement:
            self._farewells[plan.key] = announcement
            kind, reason, message = announcement
            logger.log(
                logging.WARNING if kind == "Warning" else logging.INFO,
                "Plan %s is let go: %s",
                plan.key,
                message,
            )
            await post_event(
                self._context.api, plan.body, type=kind, reason=reason, message=message, action="Remove"
            )
        try:
            body = await remove_finalizer(self._context.api, plan.body, FINALIZER)
            if self._exists(plan):
                self._see(Plan.parse(body))
        except ObjectNotFound:
            self.gone(plan.key, plan.uid)
        if outcome is not None:
            metrics.PLAN_REMOVALS.labels(outcome).inc()

    def _exists(self, plan: Plan) -> bool:
        """Whether a plan has not been told to be gone, be it that another one has its name now."""
        known = self._context.memory.plans.get(plan.key)
        return known is not None and known.uid == plan.uid

    async def take_turn(self, resource_key: Key, waiting: Mapping[Key, str]) -> None:
        """Carry out the plans of one resource that wait in a server's inbox.

        What is said of them on the objects is written while the server is already busy with the next turn; no further
        ahead than that.
        """
        resource = object_reference("HoopResource", *resource_key)
        with about(object=resource, server=self._server_of(resource_key)), metrics.TURN_DURATION.time():
            await self._carry_out(resource_key, waiting)

    async def _carry_out(self, resource_key: Key, waiting: Mapping[Key, str]) -> None:
        plans = self._take(resource_key, waiting)
        self._in_turn.update((plan.key, None) for plan, _ in plans)
        self._handled.update((plan.key, plan.fingerprint) for plan, _ in plans)
        changes = [self._new_run(plan, trigger) for plan, trigger in plans if not plan.deleting]
        self._know_from_drift(changes)
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
            ended = [plan for plan, _ in plans]
            neighbours = (
                list(neighbours_of_creators(self._context.memory, connection.endpoint, changes))
                if connection is not None
                else []
            )
            self._beside_creators.update(neighbours)
            self._endings[resource_key] = asyncio.create_task(
                self._end_turn(resource_key, ended, changes, neighbours)
            )

    def _know_from_drift(self, runs: Sequence[Run]) -> None:
        """Say what runs are for that come before they are woken for what the end of another one's turn left to do."""
        for run in runs:
            if run.plan.key in self._beside_creators:
                self._beside_creators.remove(run.plan.key)
                if run.trigger in {DRIFT, RETRY}:
                    run.trigger = CREATORS

    def _take(self, resource_key: Key, waiting: Mapping[Key, str]) -> list[tuple[Plan, str]]:
        """The plans of a turn, one for each role; others that name the same role are for a later turn to refuse."""
        resource = self._context.memory.resources.get(resource_key)
        plans: dict[str, tuple[Plan, str]] = {}
        for key, trigger in waiting.items():
            plan = self._context.memory.plans.get(key)
            if plan is None or plan.resource_key != resource_key:
                continue  # made anew for another resource, it was put into that one's inbox
            if plan.deleting and (plan.leaves_role or not plan.has_finalizer):
                # It was to be changed when it was put into the inbox: it is let go without its server.
                self.wake(key, trigger)
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

    async def _end_turn(
        self,
        resource_key: Key,
        plans: Sequence[Plan],
        changes: Sequence[Run],
        neighbours: Sequence[Key],
    ) -> None:
        """Say how the runs of a turn ended, and see to plans that changed meanwhile or have a new neighbour."""
        try:
            results = await asyncio.gather(*map(self._finish, changes), return_exceptions=True)
            for run, result in zip(changes, results, strict=True):
                if isinstance(result, Exception):
                    logger.error(
                        "Telling how plan %s ended failed in a way that nobody foresaw",
                        run.plan.key,
                        exc_info=result,
                    )
                    self._retry(run.plan.key, RETRY)
        finally:
            for taken in plans:
                key = taken.key
                again = self._in_turn.pop(key)
                if not self._exists(taken):
                    self._agreements.forget(taken)
                if key in self._told_in_turn and self._told_in_turn.pop(key) != self._secret_versions.get(
                    key
                ):
                    again = again or SECRET
                plan = self._context.memory.plans.get(key)
                if plan is not None and (again or self._handled.get(key) != plan.fingerprint):
                    self.wake(key, again or "spec")
            for neighbour in neighbours:
                self.wake(neighbour, CREATORS)
            self._count_users(resource_key)
            if self._endings.get(resource_key) is asyncio.current_task():
                del self._endings[resource_key]

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
            self._wake_resource(resource.key, RETRY)
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
                usable(run.plan, resource)
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
            connection = await connection_for_removal(self._context, resource_key)
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
            self._wake_resource(resource_key, RETRY)
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
            name = recorded_role(plan, registration)
            if name is None:
                await self._end_removal(run, "its name is not known any more")
                continue
            identity = Identity(self._context.settings.instance, plan.key.namespace, plan.key.name)
            desired.append(
                DesiredRole(name, identity, known_oid=plan.known_oid(capabilities.system_identifier))
            )
            roles[name] = run

        async def still_wanted(role: DesiredRole) -> bool:
            return await is_still_deleting(self._context.api, roles[role.name].plan)

        outcomes = await remove_roles(Removal(sessions, capabilities, still_wanted), desired)
        await asyncio.gather(*(self._end_removal(roles[name], outcome) for name, outcome in outcomes.items()))

    async def _end_removal(self, run: Run, outcome: RemovalOutcome) -> None:
        with about(**run.log_fields):
            await self._let_go_or_fail(run, outcome)

    async def _let_go_or_fail(self, run: Run, outcome: RemovalOutcome) -> None:
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
                await self._let_go(plan, "dropped")
            else:
                await self._let_go(plan, "left_behind", role_left_behind(plan, outcome))
        except ClusterError as error:
            what = f"The role of plan {plan.key} is removed, but the plan cannot be let go yet"
            await tell_trouble(self._context, ("plan", plan.key), plan.body, what, error)
            self._retry(plan.key, RETRY)

    def _sessions(self, connection: Connection) -> AbstractAsyncContextManager[Sessions]:
        context = self._context
        return open_sessions(connection, context.limits, address_allowed, context.leading)

    async def _finish(self, run: Run) -> None:
        """Say on the object how a run ended, unless that is said already, and see that a failure is tried again."""
        with about(**run.log_fields):
            await self._say_how_it_ended(run)

    async def _say_how_it_ended(self, run: Run) -> None:
        plan, api, clock = run.plan, self._context.api, self._context.clock
        if run.overtaken:
            if run.claimed and not run.committing:
                await self._give_approval_back(run)
            await self._read_anew(plan)
            return
        if not self._exists(plan):
            return
        if run.secret_version is not None:
            self._secret_versions[plan.key] = run.secret_version
        approval.conclude(run)
        if not run.failed or not self._is_tried_again(run):
            clock.settle(("plan", plan.key))
        else:
            self._retry(plan.key, RETRY)
        try:
            patch = status_of(run, datetime.now(UTC))
            if patch is not None:
                written = await write_status(api, plan, patch)
                if not self._exists(plan):
                    return
                self._see(written)
            self._reported[plan.key] = plan.fingerprint
            if patch is not None:
                logger.log(
                    logging.WARNING if run.failed else logging.INFO,
                    "Plan %s, for %s: %s",
                    plan.key,
                    run.trigger,
                    f"{run.reason} {run.message}".rstrip(),
                    extra={"reason": run.reason},
                )
                count_run(run)
                for kind, reason, message in plan_events(run):
                    await post_event(
                        api, plan.body, type=kind, reason=reason, message=message, action="Apply"
                    )
        except ObjectNotFound:
            self.gone(plan.key, plan.uid)
        except ObjectConflict:
            await self._read_anew(plan)
        except ClusterError as error:
            what = f"The outcome of plan {plan.key} could not be written"
            await tell_trouble(self._context, ("plan", plan.key), plan.body, what, error)
            self._retry(plan.key, RETRY)

    async def _give_approval_back(self, run: Run) -> None:
        """Have the object say again what it said before a run took its approval up and changed nothing."""
        try:
            await write_status(self._context.api, run.plan, {"lastAppliedSid": run.last_applied_sid})
        except ClusterError as error:
            logger.warning("The approval of plan %s could not be given back: %s", run.plan.key, error)

    async def _read_anew(self, plan: Plan) -> None:
        """See to a plan again, as the API server has it now: somebody else is at work on it or on its role."""
        logger.info("Somebody else is at work on plan %s, looking again", plan.key)
        try:
            self.seen(Plan.parse(await self._context.api.get(paths.custom_object(plan.body))))
        except ObjectNotFound:
            self.gone(plan.key, plan.uid)
            return
        except (ClusterError, ValidationError) as error:
            logger.warning("Plan %s cannot be read: %s", plan.key, error)
        self._retry(plan.key, RETRY)


def _was_wiped(before: Plan, after: Plan) -> bool:
    """Whether somebody replaced the object and took away what we had written on it."""
    return bool(
        before.uid == after.uid
        and not after.deleting
        and ((before.has_finalizer and not after.has_finalizer) or (before.status and not after.status))
    )


def _fail_undecided(runs: Sequence[Run], failure: PlanFailure) -> None:
    for run in runs:
        if run.succeeded:
            run.fail(failure)


async def _capabilities(sessions: Sessions) -> Capabilities:
    async with sessions.transaction() as transaction:
        capabilities = await read_capabilities(transaction)
    if capabilities.read_only:
        raise ServerUnreachable("the server is read-only (a standby)")
    return capabilities

"""What is done about a HoopResource, whatever woke it."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from hoop_operator.cluster import paths
from hoop_operator.cluster.events import post_event
from hoop_operator.cluster.finalizers import add_finalizer, remove_finalizer
from hoop_operator.credentials.connection import Connection, Endpoint, holds_password
from hoop_operator.errors import (
    ClusterError,
    ObjectConflict,
    ObjectNotFound,
    ResourceFailure,
    ResourceReason,
    ServerError,
)
from hoop_operator.logs import about, object_reference
from hoop_operator.postgres.capabilities import Capabilities
from hoop_operator.reconcile.announce import Announcement
from hoop_operator.reconcile.connection_secrets import write_connection_secrets
from hoop_operator.reconcile.contention import ATTEMPTS
from hoop_operator.reconcile.context import Context
from hoop_operator.reconcile.denied import tell_trouble
from hoop_operator.reconcile.drift import DRIFT
from hoop_operator.reconcile.inbox import Inbox
from hoop_operator.reconcile.objects import FINALIZER, Fingerprint, Key, Resource
from hoop_operator.reconcile.register import (
    Registration,
    gravest,
    judge,
    refusal,
    replaced_server,
    resolve,
    resource_status,
)
from hoop_operator.reconcile.single import SingleFlight

PASSWORD_ADVICE = (
    "spec.envVars holds the admin's password for everybody to see who may read the resource; put it into a Secret, and "
    "name that in spec.envVarsFrom"
)

logger = logging.getLogger(__name__)


class Resources:
    """Registers resources, and lets them go when no plan uses them any more."""

    def __init__(
        self,
        context: Context,
        inbox_of: Callable[[Endpoint], Inbox],
        wake_plan: Callable[[Key, str], None],
        in_turn: Callable[[Key], bool],
    ) -> None:
        self._context = context
        self._inbox_of = inbox_of
        self._wake_plan = wake_plan
        self._in_turn = in_turn
        self._handled: dict[Key, Fingerprint] = {}
        self._to_register: dict[Key, str] = {}
        self._flight = SingleFlight(self._see_to, self._retry)

    def seen(self, resource: Resource) -> None:
        """Take note of a resource as the API server has it now; see to it if it asks for something new."""
        former = self._context.memory.resources.get(resource.key)
        if not self._context.memory.see_resource(resource):
            return
        if former is not None and former.uid != resource.uid:
            self._context.memory.registrations.pop(former.key, None)
            self._forget(former.key)
        if self._handled.get(resource.key) != resource.fingerprint:
            self._handled[resource.key] = resource.fingerprint
            self.wake(resource.key, "spec")

    def gone(self, key: Key, uid: str) -> None:
        """Take note that a resource does not exist any more, and tell its plans; another of its name stays."""
        known = self._context.memory.resources.get(key)
        if known is not None and known.uid != uid:
            return
        self._context.memory.forget_resource(key)
        self._forget(key)
        self._wake_plans(key, "resource")

    def _forget(self, key: Key) -> None:
        """Keep nothing of a resource that does not exist any more."""
        self._context.clock.settle(("resource", key))
        self._context.clock.cancel(("references", key))
        self._handled.pop(key, None)
        self._to_register.pop(key, None)

    def wake(self, key: Key, trigger: str) -> None:
        """Have a resource registered anew, soon."""
        # A look for drift does all that any other trigger asks for, and wakes the plans too.
        if self._to_register.get(key) != DRIFT:
            self._to_register[key] = trigger
        self._flight.wake(key, trigger)

    def silence_changed(self, endpoint: Endpoint) -> None:
        """Take note that a server which answered nobody does by now, or fails in another way; its resources follow."""
        for key in self._context.memory.resources_at(endpoint):
            if not self._context.memory.registrations[key].ready:
                self.wake(key, "server")

    def count_plans(self, key: Key) -> None:
        """Have it written down, soon, how many plans use a resource, or a deleted one let go when none does."""
        self._flight.wake(key, "plans")

    async def close(self) -> None:
        """Stop what is under way."""
        await self._flight.close()

    async def _see_to(self, key: Key, cause: str) -> None:
        trigger = self._to_register.pop(key, None)
        with about(object=object_reference("HoopResource", *key), trigger=trigger or cause):
            await self._register_or_tell(key, trigger)

    async def _register_or_tell(self, key: Key, trigger: str | None) -> None:
        memory = self._context.memory
        resource = memory.resources.get(key)
        if resource is None or not self._context.serves(resource):
            memory.registrations.pop(key, None)  # of one that moved to another instance: it may come back
            self._context.clock.settle(("resource", key))
            self._context.clock.cancel(("references", key))
            return
        known = memory.registrations.get(key)
        try:
            # A plan in its turn may be about to use it; when that has ended the users are counted anew.
            if resource.deleting and not memory.users_of(key) and not self._in_turn(key):
                await self._let_go(resource)
            elif trigger is not None or known is None:
                await self._register(resource, trigger or "plans")
            else:
                await self._tell(known)
        except ObjectNotFound:
            self.gone(key, resource.uid)  # no watch may have told of it: one may have broken then
        except ClusterError as error:
            what = f"Resource {key} waits for the Kubernetes API"
            await tell_trouble(self._context, ("resource", key), resource.body, what, error)
            self._retry(key, trigger or "retry")

    def _retry(self, key: Key, trigger: str) -> None:
        self._context.clock.retry(("resource", key), lambda: self.wake(key, trigger))

    async def _let_go(self, resource: Resource) -> None:
        if resource.has_finalizer:
            await remove_finalizer(self._context.api, resource.body, FINALIZER)

    async def _register(self, resource: Resource, trigger: str) -> None:
        memory, clock, key = self._context.memory, self._context.clock, resource.key
        if resource.is_postgres and not resource.has_finalizer and not resource.deleting:
            body = await add_finalizer(self._context.api, resource.body, FINALIZER)
            resource = Resource.parse(body)
            memory.see_resource(resource)
        registration = await self._try(resource)
        now = memory.resources.get(key)
        if now is None or now.uid != resource.uid:
            return
        before = memory.registrations.get(key)
        memory.registrations[key] = registration
        if registration.ready and registration.connection is not None:
            memory.last_good[key] = registration.connection
        # Before anything that may fail: the next attempt finds nothing new that would concern the plans.
        if trigger == DRIFT or before is None or _concerns_plans(before, registration):
            # After a start nothing is known; what the status speaks of is not new to the plans all the same.
            was_told = before is None and resource.status.get("observedGeneration") == resource.generation
            self._wake_plans(key, DRIFT if trigger == DRIFT or was_told else "resource")
        self._look_later(registration)
        if registration.secret_changes and resource.condition("Ready"):
            text = "; ".join(registration.secret_changes)
            await self._post(resource, Announcement("Normal", "SecretsWritten", text))
        await self._tell(registration)
        if registration.ready or self._waits_for_server(registration):
            clock.settle(("resource", key))
        else:
            self._retry(key, "retry")

    def _look_later(self, registration: Registration) -> None:
        """Have what a resource refers to outside of the cluster looked at on the drift clock.

        Where there is a server, the resource is looked at with it.
        """
        key, name = registration.resource.key, ("references", registration.resource.key)
        if registration.ready and registration.connection is None and registration.resource.references:
            self._context.clock.after(name, self._context.seconds_to_next_look, lambda: self.wake(key, DRIFT))
        else:
            self._context.clock.cancel(name)

    def _waits_for_server(self, registration: Registration) -> bool:
        """Whether all that a resource lacks is that its server answers, of which it will be told."""
        connection = registration.connection
        return (
            registration.reason is ResourceReason.SERVER_UNREACHABLE
            and connection is not None
            and self._inbox_of(connection.endpoint).silent
        )

    async def _try(self, resource: Resource) -> Registration:
        registration = await self._log_in(await self._find_credentials(resource))
        if registration.reason is ResourceReason.AUTHENTICATION_FAILED and resource.references:
            # They may have been changed at their source, of which nobody is told.
            anew = await self._find_credentials(resource, since=time.monotonic())
            changes = registration.secret_changes + anew.secret_changes
            if anew.connection != registration.connection:
                registration = await self._log_in(anew)
            registration = replace(registration, secret_changes=changes)
        return registration

    async def _find_credentials(self, resource: Resource, since: float = 0.0) -> Registration:
        """What can be said of a resource without its server; its connection Secrets are written by then.

        What it refers to outside of the cluster is asked for anew where that was asked for before `since`.
        """
        api, settings = self._context.api, self._context.settings
        values = await self._context.follower.follow(resource.references, resource.key.namespace, since)
        connection: Connection | None = None
        failures: list[ResourceFailure] = []
        try:
            connection = await resolve(api, resource, settings.allowed_hosts, values)
        except ResourceFailure as failure:
            failures.append(failure)
        secrets = await write_connection_secrets(api, resource, values)
        found = Registration(
            resource,
            ResourceReason.REGISTERED,
            connection=connection,
            secrets=secrets.there,
            secret_changes=secrets.changes,
        )
        if failures := [*failures, *secrets.failures]:
            worst = gravest(failures)
            return replace(found, reason=worst.reason, message=worst.message)
        return found

    async def _log_in(self, found: Registration) -> Registration:
        """Ask a resource's server who the admin is, where all that takes was found."""
        connection = found.connection
        if not found.ready or connection is None:
            return found
        try:
            capabilities = await self._inbox_of(connection.endpoint).probe(connection)
        except ServerError as error:
            reason, message = refusal(error, connection)
            return replace(found, reason=reason, message=message)
        reason, message = judge(capabilities)
        return replace(
            found,
            reason=reason,
            message=message,
            capabilities=capabilities,
            restored_from=self._restored_from(found.resource, capabilities),
        )

    def _restored_from(self, resource: Resource, capabilities: Capabilities) -> str | None:
        """The warning about a server that was replaced; it stays until the resource is changed."""
        former = self._context.memory.last_good.get(resource.key)
        users = len(self._context.memory.users_of(resource.key))
        if warning := replaced_server(resource, capabilities, former.endpoint if former else None, users):
            return warning
        reachable = resource.condition("Reachable")
        if reachable.get("status") == "True" and reachable.get("observedGeneration") == resource.generation:
            return reachable.get("message") or None
        return None

    async def _tell(self, registration: Registration) -> None:
        """Write what is known on the object, and post events about what is new.

        It is written over the status that is known, and over no other.

        Raises
        ------
        ObjectConflict
            Somebody else wrote a status meanwhile: the resource has to be looked at anew.
        ClusterError
            The API server failed us, or the resource is gone.
        """
        for attempt in range(1, ATTEMPTS + 1):
            resource = self._context.memory.resources.get(registration.resource.key)
            if resource is None or not self._is_about(registration, resource):
                return
            try:
                await self._write_status(registration, resource)
            except ObjectConflict:
                anew = Resource.parse(await self._context.api.get(paths.custom_object(resource.body)))
                self.seen(anew)
                others_wrote = anew.status != resource.status
                if self._is_about(registration, anew) and (others_wrote or attempt == ATTEMPTS):
                    raise
            else:
                return

    def _is_about(self, registration: Registration, resource: Resource) -> bool:
        """Whether a resource is still ours and the one that was looked at, and no look at a later spec was told."""
        looked_at = registration.resource
        told = resource.status.get("observedGeneration", 0)
        return (
            resource.uid == looked_at.uid
            and self._context.serves(resource)
            and not looked_at.generation < told <= resource.generation
        )

    async def _write_status(self, registration: Registration, resource: Resource) -> None:
        memory, api = self._context.memory, self._context.api
        users = memory.users_of(resource.key)
        in_use = _in_use(resource.key, [plan.key for plan in users]) if resource.deleting and users else None
        patch = resource_status(registration, resource, len(users), in_use, datetime.now(UTC))
        if patch is None:
            return
        metadata = {"uid": resource.uid, "resourceVersion": resource.body["metadata"]["resourceVersion"]}
        path = paths.status(paths.custom_object(resource.body))
        body = await api.merge_patch(path, {"metadata": metadata, "status": patch})
        now = memory.resources.get(resource.key)
        if now is None or now.uid != resource.uid:
            return
        memory.see_resource(Resource.parse(body))
        outcome = in_use or registration.message
        connection = registration.connection
        logger.log(
            logging.INFO if registration.ready else logging.WARNING,
            "Resource %s: %s",
            resource.key,
            f"{registration.reason} {outcome}".rstrip(),
            extra={
                "reason": registration.reason,
                "sid": registration.sid,
                "server": str(connection.endpoint) if connection is not None else None,
            },
        )
        await self._post_events(resource, registration, in_use)

    async def _post_events(self, resource: Resource, registration: Registration, in_use: str | None) -> None:
        before = resource.condition("Ready")
        reason = ResourceReason.IN_USE if in_use else registration.reason
        message = in_use or registration.message
        events: list[Announcement] = []
        same = before.get("reason") == reason and (bool(in_use) or before.get("message", "") == message)
        if not same:
            if in_use or not registration.ready:
                events.append(Announcement("Warning", reason, message))
            elif before:
                events.append(Announcement("Normal", reason, "the resource is ready"))
        is_new = resource.status.get("observedGeneration") != registration.resource.generation
        if same and is_new and registration.ready and not (registration.secret_changes or resource.deleting):
            events.append(Announcement("Normal", reason, "the changed spec is in force"))
        replaced = registration.restored_from
        if replaced and replaced != resource.condition("Reachable").get("message"):
            events.append(Announcement("Warning", "ServerReplaced", replaced))
        if is_new and _inline_password(resource):
            events.append(Announcement("Warning", "PasswordInSpec", PASSWORD_ADVICE))
        await asyncio.gather(*(self._post(resource, event) for event in events))

    async def _post(self, resource: Resource, event: Announcement) -> None:
        kind, why, text = event
        await post_event(
            self._context.api, resource.body, type=kind, reason=why, message=text, action="Register"
        )

    def _wake_plans(self, key: Key, trigger: str) -> None:
        for plan in self._context.memory.plans_of(key):
            self._wake_plan(plan.key, trigger)


def _concerns_plans(before: Registration, after: Registration) -> bool:
    """Whether plans may come out differently than before."""
    return (
        before.resource.generation,
        before.reason,
        before.message,
        before.connection,
        before.capabilities,
    ) != (
        after.resource.generation,
        after.reason,
        after.message,
        after.connection,
        after.capabilities,
    )


def _inline_password(resource: Resource) -> bool:
    return resource.is_postgres and holds_password(resource.spec.env_vars)


def _in_use(resource: Key, plans: list[Key]) -> str:
    """Which plans use a resource; those of other namespaces are told as a number only."""
    near = [plan.name for plan in plans if plan.namespace == resource.namespace]
    parts = []
    if near:
        shown = ", ".join(near[:20]) + (f" and {len(near) - 20} more" if len(near) > 20 else "")
        parts.append(f"HoopRolePlans {shown}")
    if far := len(plans) - len(near):
        parts.append(f"{far} in other namespaces")
    return f"deletion waits for {' and '.join(parts)}, whose roles are on this server; delete them first"

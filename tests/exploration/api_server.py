"""A stand-in for the API server: its objects as dictionaries, and the rules by which it changes them.

What it imitates is written in the Kubernetes documentation, "API Concepts" (resource versions, watches, no-op writes,
preconditions), "Finalizers", "Garbage Collection" and "Custom Resources" (the status subresource, generation), and in
RFC 6902 and RFC 7386. `tests/integration/test_stand_ins.py` holds it against a real one.
"""

import asyncio
import base64
import copy
import itertools
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from exploration.schedule import Schedule
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import (
    ClusterError,
    ClusterUnavailable,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)

Object = dict[str, Any]

PATH = re.compile(
    r"(?P<collection>(?:/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+))"
    r"(?:/(?P<name>[^/]+))?(?P<status>/status)?"
)
WITH_STATUS = frozenset({"hoopresources", "hooproleplans"})
"""Custom resources: a status of their own way, and a generation that counts the changes of the rest."""
MOMENT = "2026-01-01T00:00:00Z"


class Change(NamedTuple):
    """One write that came to something."""

    path: str
    before: Object | None
    after: Object | None


class ApiServer:
    """The objects of a cluster; everything here happens at once."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.changes: list[Change] = []
        self.watchers: list[Callable[[Change], None]] = []
        """Told of every change at once, before anybody else can make another one."""
        self._versions = itertools.count(1)
        self._news = asyncio.Event()

    def get(self, path: str) -> Object:
        """An object, or the list of a collection."""
        place = _place(path)
        if place["name"] is None:
            found = [
                copy.deepcopy(known)
                for known_path, known in sorted(self.objects.items())
                if _place(known_path)["collection"] == place["collection"]
            ]
            return {"items": found, "metadata": {"resourceVersion": str(len(self.changes))}}
        return copy.deepcopy(self._known(_object_path(path)))

    def create(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Create an object with uid, version and, if it is a custom one, generation; 409 where its name is taken."""
        created: Object = copy.deepcopy(dict(body))
        metadata = created["metadata"]
        version = next(self._versions)
        if "name" not in metadata:
            metadata["name"] = f"{metadata.pop('generateName')}{version}"
        member = f"{path}/{metadata['name']}"
        if member in self.objects:
            raise ObjectConflict(f"{member} already exists", status=409)
        place = _place(member)
        metadata |= {"uid": f"uid-{version}", "creationTimestamp": MOMENT}
        if place["namespace"] is not None:
            metadata["namespace"] = place["namespace"]
        if place["plural"] in WITH_STATUS:
            created.pop("status", None)
            metadata["generation"] = 1
        for key, value in (created.pop("stringData", None) or {}).items():
            created.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
        if dry_run:
            return created
        return self._store(member, None, created)

    def merge_patch(self, path: str, patch: Mapping[str, Any]) -> Object:
        """Merge (RFC 7386); a status is changed by its own path, and by that alone. Another resourceVersion is 409."""
        member = _object_path(path)
        before = self._known(member)
        wanted = (patch.get("metadata") or {}).get("resourceVersion")
        if wanted not in {None, before["metadata"]["resourceVersion"]}:
            raise ObjectConflict(f"{member}: the object has been modified", status=409)
        after = _merged(before, patch)
        if _place(path)["status"]:
            after = {**before, **({"status": after["status"]} if "status" in after else {})}
        elif _place(member)["plural"] in WITH_STATUS:
            after = {key: value for key, value in after.items() if key != "status"}
            after |= {"status": before["status"]} if "status" in before else {}
        return self._update(member, before, after)

    def json_patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> Object:
        """Patch (RFC 6902), by `test`, `add` and `remove`; what does not apply, or does not hold, is 422."""
        before = self._known(path)
        after = copy.deepcopy(before)
        for operation in operations:
            *way, last = (
                step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]
            )
            place: Any = after
            try:
                for step in way:
                    place = place[int(step) if isinstance(place, list) else step]
                key: Any = int(last) if isinstance(place, list) else last
                if operation["op"] == "test":
                    # A test for null holds where there is nothing (evanphx/json-patch, which the server uses).
                    found = place[key] if isinstance(place, list) else place.get(key)
                    if found != operation["value"]:
                        raise ObjectRejected(f"{path}: test {operation['path']} failed", status=422)
                elif operation["op"] == "add":
                    place[key] = copy.deepcopy(operation["value"])
                else:
                    del place[key]
            except (IndexError, KeyError):
                raise ObjectRejected(f"{path}: no {operation['path']}", status=422) from None
        return self._update(path, before, after)

    def delete(self, path: str, preconditions: Mapping[str, str | None]) -> Object:
        """Delete, or mark as deleted where finalizers stand; other preconditions than what there is are 409."""
        before = self._known(path)
        metadata = before["metadata"]
        for name, value in preconditions.items():
            if value is not None and metadata[name] != value:
                raise ObjectConflict(f"{path}: precondition {name} failed", status=409)
        if not metadata.get("finalizers"):
            del self.objects[path]
            self._tell(Change(path, before, None))
            return before
        if "deletionTimestamp" in metadata:
            return before
        after = copy.deepcopy(before)
        after["metadata"]["deletionTimestamp"] = MOMENT
        if "generation" in metadata:
            after["metadata"]["generation"] += 1
        return self._store(path, before, after)

    def collect_garbage(self) -> None:
        """Delete what is controlled by something that does not exist any more."""
        uids = {known["metadata"]["uid"] for known in self.objects.values()}
        for path, known in list(self.objects.items()):
            owners = known["metadata"].get("ownerReferences") or ()
            if owners and not any(owner["uid"] in uids for owner in owners):
                self.delete(path, {})

    async def wait_for_news(self) -> None:
        """Wait until something changes."""
        await self._news.wait()

    def _known(self, path: str) -> Object:
        if path not in self.objects:
            raise ObjectNotFound(f"{path} not found", status=404)
        return self.objects[path]

    def _update(self, path: str, before: Object, after: Object) -> Object:
        metadata, had = after["metadata"], before["metadata"]
        for empty in [key for key, value in metadata.items() if value in ([], {})]:
            del metadata[empty]
        if metadata["uid"] != had["uid"]:
            raise ObjectConflict(f"{path}: another uid", status=409)
        if "deletionTimestamp" in had:
            if set(metadata.get("finalizers") or ()) - set(had.get("finalizers") or ()):
                raise ObjectRejected(f"{path}: no new finalizers while it is being deleted", status=422)
            if not metadata.get("finalizers"):
                del self.objects[path]
                self._tell(Change(path, before, None))
                return after
        if "generation" in had and before.get("spec") != after.get("spec"):
            metadata["generation"] = had["generation"] + 1
        return copy.deepcopy(before) if after == before else self._store(path, before, after)

    def _store(self, path: str, before: Object | None, after: Object) -> Object:
        after["metadata"]["resourceVersion"] = str(len(self.changes) + 1)
        self.objects[path] = after
        self._tell(Change(path, before, after))
        return copy.deepcopy(after)

    def _tell(self, change: Change) -> None:
        self.changes.append(change)
        self._news.set()
        self._news = asyncio.Event()
        for watcher in self.watchers:
            watcher(change)


class ApiClient(KubernetesApi):
    """An operator's way to the API server: every request passes a gate on its way there, and one on the way back."""

    def __init__(self, server: ApiServer, schedule: Schedule) -> None:
        self._server = server
        self._schedule = schedule

    async def get(self, path: str, **params: str) -> Object:
        """As `KubernetesApi.get`."""
        del params
        return await self._pass(f"GET {path}", lambda: self._server.get(path))

    async def create(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """As `KubernetesApi.create`."""
        what = f"{'DRY RUN OF ' if dry_run else ''}POST {path}"
        return await self._pass(what, lambda: self._server.create(path, body, dry_run=dry_run))

    async def merge_patch(self, path: str, body: Mapping[str, Any]) -> Object:
        """As `KubernetesApi.merge_patch`."""
        return await self._pass(f"PATCH {path}", lambda: self._server.merge_patch(path, body))

    async def json_patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> Object:
        """As `KubernetesApi.json_patch`."""
        return await self._pass(f"JSON PATCH {path}", lambda: self._server.json_patch(path, operations))

    async def delete(
        self, path: str, *, uid: str | None = None, resource_version: str | None = None
    ) -> Object:
        """As `KubernetesApi.delete`."""
        wanted = {"uid": uid, "resourceVersion": resource_version}
        return await self._pass(f"DELETE {path}", lambda: self._server.delete(path, wanted))

    async def pages(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = ""
    ) -> AsyncGenerator[Object, None]:
        """As `KubernetesApi.pages`: one page."""
        del params, accept
        yield await self.get(path)

    async def watch(
        self, path: str, resource_version: str, *, accept: str = "", name: str | None = None
    ) -> AsyncGenerator[Object, None]:
        """As `KubernetesApi.watch` of a whole collection, never ending: each event may take any time on its way."""
        del accept, name
        async for event in self.changes(path, resource_version):
            await self.hear(event)
            yield event

    async def changes(self, path: str, resource_version: str) -> AsyncGenerator[Object, None]:
        """The events of a collection, as soon as they are there."""
        seen = int(resource_version)
        while True:
            for change in self._server.changes[seen:]:
                seen += 1
                if _place(change.path)["collection"] != path:
                    continue
                word = "DELETED" if change.after is None else "MODIFIED" if change.before else "ADDED"
                told = copy.deepcopy(change.after or change.before)
                assert told is not None
                if change.after is None:
                    told["metadata"]["resourceVersion"] = str(seen)
                yield {"type": word, "object": told}
            if seen == len(self._server.changes):
                await self._server.wait_for_news()

    async def hear(self, event: Object) -> None:
        """Wait for as long as an event is on its way."""
        metadata = event["object"]["metadata"]
        what = f"{event['object'].get('kind', '')} {metadata['name']} {metadata['resourceVersion']}"
        await self._schedule.gate(f"hears {event['type']} {what}")

    async def _pass(self, what: str, request: Callable[[], Object]) -> Object:
        def fault() -> Exception:
            return ClusterUnavailable(f"{what}: no answer")

        await self._schedule.gate(what, fault)
        try:
            answer: Object | ClusterError = request()
        except ClusterError as refusal:
            answer = refusal
        await self._schedule.gate(f"hears of {what}", fault)
        if isinstance(answer, ClusterError):
            raise answer
        return answer


def _place(path: str) -> Mapping[str, Any]:
    match = PATH.fullmatch(path)
    assert match is not None, path
    return match.groupdict()


def _object_path(path: str) -> str:
    return path.removesuffix("/status")


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged

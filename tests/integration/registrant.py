"""Somebody who registers resources of any kind in one namespace, and looks at what becomes of them."""

import base64
from collections.abc import Mapping
from typing import Any

from hoop_operator.cluster import paths
from hoop_operator.errors import ObjectNotFound
from integration.tenant import API_VERSION, PATIENCE_SECONDS, Tenant, eventually, ready

CONFIDENTIAL = "confidential"
"""Part of every password that tests make up, to be found wherever one should not be."""


class Registrant(Tenant):
    """A tenant who says all of a resource's spec, Secrets and ConfigMaps."""

    async def make_secret(self, name: str, values: Mapping[str, str]) -> None:
        """Make a Secret."""
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": dict(values)}
        await self.api.create(paths.secrets(self.namespace), body)

    async def make_config_map(self, name: str, values: Mapping[str, str]) -> None:
        """Make a ConfigMap."""
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(values)}
        await self.api.create(paths.config_maps(self.namespace), body)

    async def register(self, name: str, **spec: Any) -> None:
        """Make a resource: a PostgreSQL database of this operator, unless `spec` says otherwise."""
        whole = {"type": "database", "subtype": "postgres", "agentId": self.agent_id, **spec}
        body = {"apiVersion": API_VERSION, "kind": "HoopResource", "metadata": {"name": name}, "spec": whole}
        await self.api.create(paths.hoop_resources(self.namespace), body)

    async def see(self, name: str) -> dict[str, Any]:
        """A resource as it is now."""
        return await self.api.get(paths.hoop_resource(self.namespace, name))

    async def annotate_resource(self, name: str, value: str) -> None:
        """Ask for a new look at a resource."""
        body = {"metadata": {"annotations": {"hoop.dev/reconcile-at": value}}}
        await self.api.merge_patch(paths.hoop_resource(self.namespace, name), body)

    async def delete_resource(self, name: str) -> None:
        """Ask for a resource's deletion."""
        await self.api.delete(paths.hoop_resource(self.namespace, name))

    async def until(
        self, name: str, reason: str, saying: str = "", *, seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Wait until a resource, as its spec is now, is Ready or not for a reason; return its status."""
        found: dict[str, Any] = {}

        async def settled() -> bool:
            found.clear()
            found.update(await self.see(name))
            said, message = ready(found)
            answered = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
            return answered and said == reason and saying in message

        try:
            await eventually(
                settled, seconds=seconds, what=f"resource {name} is {reason} and says {saying!r}"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; {ready(found)}") from None
        status: dict[str, Any] = found["status"]
        return status

    async def until_resource_gone(self, name: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a resource does not exist any more."""

        async def gone() -> bool:
            return name not in await self.resources()

        await eventually(gone, seconds=seconds, what=f"resource {name} is gone")

    async def resource_events(self, name: str) -> list[tuple[str, str, str]]:
        """Type, reason and note of every event about a resource, oldest first."""
        found = await self.api.get(paths.events(self.namespace))
        about = [
            (event["eventTime"], (event["type"], event["reason"], event["note"]))
            for event in found["items"]
            if event["regarding"]["kind"] == "HoopResource" and event["regarding"]["name"] == name
        ]
        return [event for _, event in sorted(about)]

    async def read_secret(self, name: str) -> dict[str, Any] | None:
        """A Secret with its data decoded, None where there is none."""
        try:
            body = await self.api.get(paths.secret(self.namespace, name))
        except ObjectNotFound:
            return None
        values = {key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()}
        return {**body, "data": values}


def condition(status: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition; empty where there is none."""
    for entry in status.get("conditions") or ():
        if entry["type"] == name:
            return entry["status"], entry["reason"], entry.get("message", "")
    return "", "", ""

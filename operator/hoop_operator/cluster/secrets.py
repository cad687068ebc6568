"""Reading and writing Secrets, such that what is not ours in them is never lost.

What we wrote is remembered on the Secret itself: the annotation `hoop.dev/managed` lists our keys of `data`,
`labels` and `annotations`. A later write takes away those of them that are no longer wanted, and leaves what
others added.

The type of a Secret cannot be changed, and its controller not safely: the garbage collector may be about to act on the
former one. Such a Secret is deleted and another one takes its place. All that was in it is kept meanwhile in a third
one, the holder, whose name follows from the owner's uid:

    rehearse    the creation of the successor, so that one that is refused leaves the Secret as it is
    mark        the Secret, by an annotation that names the holder
    hold        all of it in the holder
    delete      the Secret, if it is still what is held
    create      its successor, marked as well
    release     delete the holder, then take the mark away

Whatever fails or ends in between, either the Secret is there, or it is not and the holder has it: `read_held`. A
holder that is needed no more is known by the mark on the Secret that is there, and goes with its next update.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.watch import METADATA_LIST
from hoop_operator.crd.common import API_VERSION, GROUP
from hoop_operator.errors import NameTaken, ObjectConflict, ObjectNotFound
from hoop_operator.naming import secret_holder_name

MANAGED_BY = {"app.kubernetes.io/managed-by": "hoop-operator"}
MANAGED_ANNOTATION = "hoop.dev/managed"

HELD_IN = "hoop.dev/held-in"
"""The annotation of a Secret that is being replaced, and of its successor at first: the name of the holder."""
_HOLDS = "hoop.dev/holds"
"""The annotation of a holder: the name of the Secret that it holds."""
_HELD_KEY = "secret.json"

_V = TypeVar("_V")


@dataclass(frozen=True)
class Owner:
    """The object of ours that controls a Secret: with it the Secret goes."""

    kind: str
    name: str
    uid: str
    group: str = GROUP

    def reference(self) -> dict[str, Any]:
        """Return the entry of `metadata.ownerReferences`."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }

    def is_successor_of(self, former: "Owner") -> bool:
        """Whether that is this object, or one of its kind and name that was there before it."""
        return replace(former, uid=self.uid) == self


@dataclass(frozen=True)
class Secret:
    """A Secret as it was read; `repr` shows nothing of its contents."""

    __pydantic_config__ = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    namespace: str
    name: str
    uid: str
    resource_version: str
    type: str
    data: Mapping[str, bytes] = field(repr=False)
    labels: Mapping[str, str] = field(repr=False)
    annotations: Mapping[str, str] = field(repr=False)  # kubectl keeps a copy of the whole object there
    owner_references: Sequence[Mapping[str, Any]] = field(repr=False)
    deleting: bool

    @property
    def owner(self) -> Owner | None:
        """The controller, if it has one; of whatever API group."""
        for reference in self.owner_references:
            match reference:
                case {
                    "controller": True,
                    "apiVersion": str(version),
                    "kind": str(kind),
                    "name": str(name),
                    "uid": str(uid),
                }:
                    group, _, _ = version.rpartition("/")
                    return Owner(kind, name, uid, group)
        return None

    @property
    def is_marked(self) -> bool:
        """Whether a holder of it, or of its predecessor, may be there."""
        return HELD_IN in self.annotations


_WHOLE = TypeAdapter(Secret)


@dataclass(frozen=True)
class SecretContents:
    """What we put into a Secret, beside what others add to it."""

    type: str
    owner: Owner
    """Who controls it."""
    data: Mapping[str, str | bytes] = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stored:
    data: dict[str, bytes] = field(repr=False)
    labels: dict[str, str]
    annotations: dict[str, str]


async def read_secret(api: KubernetesApi, namespace: str, name: str) -> Secret | None:
    """Return a Secret, None when there is none of that name."""
    try:
        return decode(await api.get(paths.secret(namespace, name)))
    except ObjectNotFound:
        return None


async def controlled_secrets(api: KubernetesApi, namespace: str, owner: Owner) -> list[str]:
    """Return the names of the Secrets that we wrote for an object, without reading what is in them."""
    selector = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
    pages = api.pages(paths.secrets(namespace), {"labelSelector": selector}, accept=METADATA_LIST)
    return [
        item["metadata"]["name"]
        async for page in pages
        for item in page["items"] or ()
        for reference in item["metadata"].get("ownerReferences") or ()
        if reference.get("controller") and reference["uid"] == owner.uid
    ]


async def read_config_map(api: KubernetesApi, namespace: str, name: str) -> dict[str, bytes] | None:
    """Return the entries of a ConfigMap, text and binary ones; None when there is none of that name."""
    try:
        body = await api.get(paths.config_map(namespace, name))
    except ObjectNotFound:
        return None
    return config_map_data(body)


def secret_data(body: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what a Secret holds, `stringData` included: only a file has that, the API server merges it into `data`."""
    text = {key: value.encode() for key, value in (body.get("stringData") or {}).items()}
    return _decoded(body.get("data")) | text


def config_map_data(body: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what a ConfigMap holds, text and binary."""
    text = {key: value.encode() for key, value in (body.get("data") or {}).items()}
    return text | _decoded(body.get("binaryData"))


async def create_secret(
    api: KubernetesApi, namespace: str, name: str, contents: SecretContents, held: Secret | None = None
) -> Secret:
    """Create a Secret, in the place of one that is held with what others added to that.

    Raises `ObjectConflict` when there is one of that name.
    """
    place = {"name": name, "namespace": namespace}
    if held is None:
        return decode(await api.create(paths.secrets(namespace), _body(place, contents, _ours(contents), [])))
    successor = decode(await api.create(paths.secrets(namespace), _successor(place, contents, held)))
    return await update_secret(api, successor, contents)


async def update_secret(api: KubernetesApi, current: Secret, contents: SecretContents) -> Secret:
    """Make a Secret hold what is given, beside what others added to it, and return it as stored.

    Keys, labels and annotations that an earlier call gave and this one does not are removed. Nothing is sent
    when nothing differs. Another `type` means another Secret: see `replace_secret`. A holder that a replacement has
    left behind is deleted.

    Raises `ObjectConflict` when the Secret is gone or no longer the one in `current`, or another object controls it.
    """
    if current.owner is not None and current.owner.uid != contents.owner.uid:
        controller = f"{current.owner.kind} {current.owner.name}"
        raise ObjectConflict(
            f"Secret {current.namespace}/{current.name} is controlled by {controller}", status=409
        )
    if contents.type != current.type:
        return await replace_secret(api, current, contents)
    if current.is_marked:
        await release_secret(api, current.namespace, contents.owner)
    wanted = _beside_additions(current, _ours(contents))
    patch: dict[str, Any] = {}
    if labels_patch := _difference(current.labels, wanted.labels):
        patch["labels"] = labels_patch
    if annotations_patch := _difference(current.annotations, wanted.annotations):
        patch["annotations"] = annotations_patch
    if current.owner is None:
        patch["ownerReferences"] = [*current.owner_references, contents.owner.reference()]
    data_patch = _difference(_encoded(current.data), _encoded(wanted.data))
    if not patch and not data_patch:
        return current
    patch["resourceVersion"] = current.resource_version
    return await _merge_patch(api, current, {"metadata": patch, "data": data_patch})


async def replace_secret(api: KubernetesApi, current: Secret, contents: SecretContents) -> Secret:
    """Put another Secret in the place of one, with what others added to that.

    Raises `ObjectConflict` when the Secret is gone or no longer the one in `current`, and `NameTaken` when the holder's
    name is somebody else's.
    """
    place = {"generateName": f"{current.name}-", "namespace": current.namespace}
    await api.create(paths.secrets(current.namespace), _successor(place, contents, current), dry_run=True)
    current = await _mark(api, current, secret_holder_name(contents.owner.uid))
    holder, is_new = await _hold(api, current, contents.owner)
    try:
        await delete_secret(api, current)
    except ObjectConflict:
        # What is there by now may not be marked, and nobody would look for what was held in vain.
        if is_new:
            with suppress(ObjectConflict):
                await delete_secret(api, holder)
        raise
    return await create_secret(api, current.namespace, current.name, contents, held=current)


async def read_held(api: KubernetesApi, namespace: str, owner: Owner) -> Secret | None:
    """Return the Secret that is held for an owner, as it was before it was deleted; None where there is none.

    It counts only where that Secret is not there.
    """
    holder = await _read_holder(api, namespace, owner)
    if holder is None:
        return None
    try:
        return _WHOLE.validate_json(holder.data.get(_HELD_KEY, b""))
    except ValidationError:
        return None


async def release_secret(api: KubernetesApi, namespace: str, owner: Owner) -> None:
    """Delete the holder of an owner, if there is one."""
    holder = await _read_holder(api, namespace, owner)
    if holder is not None:
        await delete_secret(api, holder)


async def delete_secret(api: KubernetesApi, secret: Secret) -> None:
    """Delete the Secret if it is as it was read, else raise `ObjectConflict`; that it is gone is fine."""
    path = paths.secret(secret.namespace, secret.name)
    try:
        await api.delete(path, uid=secret.uid, resource_version=secret.resource_version)
    except ObjectNotFound:
        return


def decode(body: Mapping[str, Any]) -> Secret:
    """Return the Secret that the API server describes."""
    metadata = body["metadata"]
    return Secret(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        type=body.get("type", "Opaque"),
        data=secret_data(body),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        owner_references=metadata.get("ownerReferences") or [],
        deleting="deletionTimestamp" in metadata,
    )


async def _mark(api: KubernetesApi, secret: Secret, holder: str) -> Secret:
    if secret.annotations.get(HELD_IN) == holder:
        return secret
    metadata = {"resourceVersion": secret.resource_version, "annotations": {HELD_IN: holder}}
    return await _merge_patch(api, secret, {"metadata": metadata})


async def _hold(api: KubernetesApi, secret: Secret, owner: Owner) -> tuple[Secret, bool]:
    """Have all of a Secret in the holder, and return that, and whether there was none before."""
    namespace, name = secret.namespace, secret_holder_name(owner.uid)
    contents = SecretContents("Opaque", owner, {})
    annotations = {_HOLDS: secret.name}
    wanted = _Stored({_HELD_KEY: _WHOLE.dump_json(secret)}, MANAGED_BY, annotations)
    body = _body({"name": name, "namespace": namespace}, contents, wanted, [])
    try:
        return decode(await api.create(paths.secrets(namespace), body)), True
    except ObjectConflict:
        holder = await read_secret(api, namespace, name)
        if holder is None or holder.deleting:
            raise
        if not _is_holder(holder, owner):
            raise NameTaken(f"Secret {name} exists already", status=409) from None
    metadata = {"resourceVersion": holder.resource_version, "annotations": annotations}
    return await _merge_patch(api, holder, {"metadata": metadata, "data": body["data"]}), False


async def _read_holder(api: KubernetesApi, namespace: str, owner: Owner) -> Secret | None:
    secret = await read_secret(api, namespace, secret_holder_name(owner.uid))
    return secret if secret is not None and _is_holder(secret, owner) else None


def _is_holder(secret: Secret, owner: Owner) -> bool:
    return secret.owner == owner and _HOLDS in secret.annotations


async def _merge_patch(api: KubernetesApi, secret: Secret, body: Mapping[str, Any]) -> Secret:
    """Raise `ObjectConflict` where the Secret is gone: not the caller's object is, but what it knew of this one."""
    try:
        return decode(await api.merge_patch(paths.secret(secret.namespace, secret.name), body))
    except ObjectNotFound as error:
        raise ObjectConflict(str(error), status=409) from None


def _successor(place: Mapping[str, str], contents: SecretContents, former: Secret) -> dict[str, Any]:
    """Return the Secret that takes the place of one, with what others added to that, and with the mark."""
    wanted = _beside_additions(former, _ours(contents))
    wanted.annotations[HELD_IN] = secret_holder_name(contents.owner.uid)
    others = [reference for reference in former.owner_references if not reference.get("controller")]
    return _body(place, contents, wanted, others)


def _body(
    place: Mapping[str, str],
    contents: SecretContents,
    wanted: _Stored,
    other_owners: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            **place,
            "labels": wanted.labels,
            "annotations": wanted.annotations,
            "ownerReferences": [*other_owners, contents.owner.reference()],
        },
        "type": contents.type,
        "data": _encoded(wanted.data),
    }


def _ours(contents: SecretContents) -> _Stored:
    """Return what we put into a Secret, the record of it included."""
    data, annotations = contents.data, contents.annotations
    labels = {**contents.labels, **MANAGED_BY}
    record = {"annotations": sorted(annotations), "data": sorted(data), "labels": sorted(labels)}
    return _Stored(
        data={key: value.encode() if isinstance(value, str) else value for key, value in data.items()},
        labels=labels,
        annotations={**annotations, MANAGED_ANNOTATION: json.dumps(record, separators=(",", ":"))},
    )


def _beside_additions(current: Secret, ours: _Stored) -> _Stored:
    """Return `ours` together with what others added to `current`."""
    record = _record(current)
    return _Stored(
        data=_without(current.data, record.get("data")) | ours.data,
        labels=_without(current.labels, record.get("labels")) | ours.labels,
        annotations=_without(_without(current.annotations, record.get("annotations")), [HELD_IN])
        | ours.annotations,
    )


def _record(secret: Secret) -> dict[str, Any]:
    """Return what we put into the Secret last time; empty when that is not known: then nothing is removed."""
    try:
        record = json.loads(secret.annotations.get(MANAGED_ANNOTATION, "{}"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _without(mapping: Mapping[str, _V], keys: Any) -> dict[str, _V]:
    gone = keys if isinstance(keys, list) else []
    return {key: value for key, value in mapping.items() if key not in gone}


def _difference(current: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str | None]:
    """Return the merge patch that turns one mapping into the other."""
    gone: dict[str, str | None] = dict.fromkeys(current.keys() - wanted.keys())
    return gone | {key: value for key, value in wanted.items() if current.get(key) != value}


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def _decoded(data: Mapping[str, str] | None) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (data or {}).items()}

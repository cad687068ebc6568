"""The Kubernetes side against a real API server, and against one that misbehaves."""

import asyncio
import base64
import contextlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from hoop_operator.cluster import api as api_module
from hoop_operator.cluster import paths
from hoop_operator.cluster.api import REQUESTS_AT_ONCE, KubernetesApi, connect
from hoop_operator.cluster.events import post_event
from hoop_operator.cluster.finalizers import add_finalizer, remove_finalizer
from hoop_operator.cluster.namespaces import namespace_labels
from hoop_operator.cluster.secrets import (
    Owner,
    Secret,
    SecretContents,
    create_secret,
    delete_secret,
    read_config_map,
    read_held,
    read_secret,
    update_secret,
)
from hoop_operator.cluster.watch import watch_metadata
from hoop_operator.errors import (
    AccessDenied,
    ClusterUnavailable,
    NameTaken,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)
from integration.dying import DyingApi

pytestmark = pytest.mark.version_independent

PASSWORD = "tell nobody!"
OURS = "hoop.dev/operator"
THEIRS = "example.com/theirs"
DEADLINE_SECONDS = 60
ANNOTATIONS_BYTES = 262144
"""As many has an object at most, keys and values together."""


@pytest.fixture
async def api(stack: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesApi]:
    monkeypatch.setenv("KUBECONFIG", str(stack.kubeconfig))
    async with connect() as connected:
        yield connected


class Writer:
    """Creates and updates Secrets of one owner, all arguments given unless a test gives others."""

    def __init__(self, api: KubernetesApi, owner: Owner, namespace: str) -> None:
        self.owner = owner
        self._api = api
        self._namespace = namespace

    async def create(self, name: str = "creds", **changes: Any) -> Secret:
        return await create_secret(self._api, self._namespace, name, self._contents("Opaque", changes))

    async def update(self, current: Secret, **changes: Any) -> Secret:
        return await update_secret(self._api, current, self._contents(current.type, changes))

    async def read(self, name: str = "creds") -> Secret:
        secret = await read_secret(self._api, self._namespace, name)
        assert secret is not None
        return secret

    def _contents(self, secret_type: str, changes: Mapping[str, Any]) -> SecretContents:
        contents = SecretContents(secret_type, self.owner, {"username": "ro", "password": PASSWORD})
        return replace(contents, **changes)


@pytest.fixture
def secrets(api: KubernetesApi, namespace: str, resource: dict[str, Any]) -> Writer:
    # The owner has to exist: the garbage collector removes what belongs to nobody.
    return Writer(api, owner_of(resource), namespace)


def owner_of(body: Mapping[str, Any]) -> Owner:
    return Owner(body["kind"], body["metadata"]["name"], body["metadata"]["uid"])


def hoop_resource(name: str = "web") -> dict[str, Any]:
    return {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopResource",
        "metadata": {"name": name},
        "spec": {
            "type": "custom",
            "subtype": "tcp",
            "agentId": "00000000-0000-4000-8000-000000000000",  # no operator is to serve it
            "envVars": {"envvar:HOST": "d2Vi"},
        },
    }


@pytest.fixture
async def resource(api: KubernetesApi, namespace: str) -> AsyncIterator[dict[str, Any]]:
    body = await api.create(paths.hoop_resources(namespace), hoop_resource())
    yield body
    path = paths.custom_object(body)
    with contextlib.suppress(ObjectNotFound):
        await api.delete(path)
        await api.merge_patch(path, {"metadata": {"finalizers": None}})


async def add_by_hand(api: KubernetesApi, secret: Secret) -> Secret:
    path = paths.secret(secret.namespace, secret.name)
    await api.merge_patch(
        path,
        {
            "metadata": {"labels": {"by": "hand"}, "annotations": {"by": "hand"}},
            "data": {"hand": base64.b64encode(b"added").decode()},
        },
    )
    changed = await read_secret(api, secret.namespace, secret.name)
    assert changed is not None
    return changed


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


class TestSecrets:
    async def test_created_secret_reads_back_as_given(self, secrets: Writer) -> None:
        secret = await secrets.create(
            type="servicebinding.io/postgresql",
            data={"password": PASSWORD, "binary": b"\xff\x00"},
            labels={"team": "a"},
            annotations={"note": "b"},
        )

        assert secret == await secrets.read()
        assert secret.type == "servicebinding.io/postgresql"
        assert secret.data == {"password": PASSWORD.encode(), "binary": b"\xff\x00"}
        assert secret.labels == {"team": "a", "app.kubernetes.io/managed-by": "hoop-operator"}
        assert secret.annotations["note"] == "b"
        assert secret.owner == secrets.owner

    async def test_creating_never_touches_what_is_there(self, secrets: Writer) -> None:
        before = await secrets.create(data={"password": "theirs"})

        with pytest.raises(ObjectConflict):
            await secrets.create()

        assert await secrets.read() == before

    async def test_absent_secret_and_config_map_read_as_none(
        self, api: KubernetesApi, namespace: str
    ) -> None:
        assert await read_secret(api, namespace, "absent") is None
        assert await read_config_map(api, namespace, "absent") is None

    async def test_config_map_is_read_with_text_and_binary_entries(
        self, api: KubernetesApi, namespace: str
    ) -> None:
        entries = {"data": {"host": "zürich"}, "binaryData": {"ca": "/wA="}}
        await api.create(paths.config_maps(namespace), {"metadata": {"name": "c"}} | entries)

        assert await read_config_map(api, namespace, "c") == {"host": "zürich".encode(), "ca": b"\xff\x00"}

    async def test_update_removes_our_former_keys_and_keeps_those_added_by_hand(
        self, api: KubernetesApi, secrets: Writer
    ) -> None:
        secret = await secrets.create(
            data={"password": "old", "dsn": "template"},
            labels={"team": "a", "tier": "b"},
            annotations={"note": "a", "other": "b"},
        )
        secret = await add_by_hand(api, secret)

        after = await secrets.update(
            secret,
            data={"password": "new", "port": "5432"},
            labels={"team": "c"},
            annotations={"note": "c"},
        )

        assert after.data == {"password": b"new", "port": b"5432", "hand": b"added"}
        assert after.labels == {"team": "c", "by": "hand", "app.kubernetes.io/managed-by": "hoop-operator"}
        assert {key: value for key, value in after.annotations.items() if key != "hoop.dev/managed"} == {
            "note": "c",
            "by": "hand",
        }
        assert after == await secrets.read()

    async def test_key_that_comes_and_goes_twice_is_removed_both_times(self, secrets: Writer) -> None:
        secret = await secrets.create(data={"a": "1", "ca.crt": "x"})
        secret = await secrets.update(secret, data={"a": "1"})
        assert set(secret.data) == {"a"}

        secret = await secrets.update(secret, data={"a": "1", "ca.crt": "x"})
        secret = await secrets.update(secret, data={"a": "1"})

        assert set(secret.data) == {"a"}

    async def test_nothing_is_sent_when_nothing_differs(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        await secrets.create(labels={"team": "a"}, annotations={"note": "b"})
        secret = await add_by_hand(api, await secrets.read())
        await api.delete(paths.secret(namespace, "creds"))

        # The Secret is gone: any request at all would fail.
        assert await secrets.update(secret, labels={"team": "a"}, annotations={"note": "b"}) is secret

    async def test_lost_record_of_our_keys_removes_nothing(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        await secrets.create(data={"a": "1", "b": "2"})
        for damage in (None, "not json", "[]", '{"data":"b"}', '{"data":[{"b":1}]}'):
            await api.merge_patch(
                paths.secret(namespace, "creds"),
                {"metadata": {"annotations": {"hoop.dev/managed": damage}}, "data": {"b": "Mg=="}},
            )

            after = await secrets.update(await secrets.read(), data={"a": "1"})

            assert set(after.data) == {"a", "b"}, damage

    async def test_stale_version_conflicts_and_loses_nothing(
        self, api: KubernetesApi, secrets: Writer
    ) -> None:
        stale = await secrets.create()
        current = await add_by_hand(api, stale)

        with pytest.raises(ObjectConflict):
            await secrets.update(stale, data={"password": "new"})
        with pytest.raises(ObjectConflict):
            await secrets.update(stale, type="kubernetes.io/basic-auth")
        with pytest.raises(ObjectConflict):
            await delete_secret(api, stale)

        assert await secrets.read() == current

    async def test_changed_type_replaces_the_secret_and_keeps_what_others_added(
        self, api: KubernetesApi, secrets: Writer
    ) -> None:
        before = await add_by_hand(api, await secrets.create(data={"password": PASSWORD, "dsn": "x"}))

        after = await secrets.update(before, type="kubernetes.io/basic-auth")

        assert after.type == "kubernetes.io/basic-auth"
        assert after.uid != before.uid
        assert after.data == {"username": b"ro", "password": PASSWORD.encode(), "hand": b"added"}
        assert after.labels["by"] == "hand"
        assert after.annotations["by"] == "hand"
        assert after.owner == secrets.owner

    async def test_whoever_dies_while_a_secret_is_replaced_loses_nothing_of_it(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        contents = SecretContents("kubernetes.io/basic-auth", secrets.owner, {"username": "ro", "port": "1"})
        for writes in range(6):
            name = f"creds-{writes}"
            before = await add_by_hand(api, await secrets.create(name, data={"username": "ro", "dsn": "x"}))
            with pytest.raises(ClusterUnavailable):
                await update_secret(DyingApi(api, writes), before, contents)
            current = await read_secret(api, namespace, name)
            held = await read_held(api, namespace, secrets.owner)
            if current is not None:
                after = await update_secret(api, current, contents)
            else:
                assert held is not None
                assert (held.type, held.data) == (before.type, before.data)
                after = await create_secret(api, namespace, name, contents, held)
            assert after == await secrets.read(name)
            assert after.type == "kubernetes.io/basic-auth"
            assert after.data == {"username": b"ro", "port": b"1", "hand": b"added"}
            assert (after.labels["by"], after.annotations["by"]) == ("hand", "hand")
            assert after.owner == secrets.owner
            assert not after.is_marked
            assert await read_held(api, namespace, secrets.owner) is None

    async def test_a_secret_whose_successor_is_refused_stays_as_it_is(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        before = await secrets.create()
        taken = sum(len(key) + len(value) for key, value in before.annotations.items())
        room = 100  # for the mark, and not for what is asked
        big = "x" * (ANNOTATIONS_BYTES - taken - len("big") - room)
        await api.merge_patch(paths.secret(namespace, "creds"), {"metadata": {"annotations": {"big": big}}})
        before = await secrets.read()

        with pytest.raises(ObjectRejected):
            await secrets.update(before, type="kubernetes.io/basic-auth", annotations={"more": "x" * room})

        assert await secrets.read() == before

    async def test_what_cannot_be_held_is_not_replaced(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        before = await secrets.create()
        theirs = await secrets.create(f"hoop-held-{secrets.owner.uid}")

        with pytest.raises(NameTaken, match=theirs.name):
            await secrets.update(before, type="kubernetes.io/basic-auth")

        assert (await secrets.read()).data == before.data
        assert await secrets.read(theirs.name) == theirs
        assert await read_held(api, namespace, secrets.owner) is None

    async def test_secret_with_another_controller_stays_untouched(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        other = owner_of(await api.create(paths.hoop_resources(namespace), hoop_resource("other")))
        before = await secrets.create(owner=other)

        for change in ({"data": {"password": "new"}}, {"type": "kubernetes.io/basic-auth"}):
            with pytest.raises(ObjectConflict, match="HoopResource other"):
                await secrets.update(before, **change)

        assert await secrets.read() == before

    async def test_adopted_secret_keeps_its_keys_and_its_other_owners(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        config_map = await api.create(paths.config_maps(namespace), {"metadata": {"name": "x"}})
        uid = config_map["metadata"]["uid"]
        bystander = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": uid}
        await api.create(
            paths.secrets(namespace),
            {
                "metadata": {"name": "creds", "ownerReferences": [bystander]},
                "data": {"theirs": "eA==", "password": "eA=="},
            },
        )

        after = await secrets.update(await secrets.read())

        assert after.data == {"theirs": b"x", "username": b"ro", "password": PASSWORD.encode()}
        assert after.owner == secrets.owner
        assert [reference["uid"] for reference in after.owner_references] == [uid, secrets.owner.uid]

    async def test_deleting_what_is_gone_is_fine_but_its_successor_is_spared(
        self, api: KubernetesApi, secrets: Writer
    ) -> None:
        first = await secrets.create()
        await delete_secret(api, first)
        await delete_secret(api, first)
        second = await secrets.create()

        with pytest.raises(ObjectConflict):
            await delete_secret(api, first)

        assert await secrets.read() == second

    async def test_to_update_what_was_deleted_meanwhile_is_a_conflict(
        self, api: KubernetesApi, secrets: Writer
    ) -> None:
        read = await secrets.create()
        await delete_secret(api, read)

        with pytest.raises(ObjectConflict):
            await secrets.update(read, data={"password": "new"})


class TestFailures:
    async def test_a_kind_that_is_not_served_is_told_from_an_object_that_does_not_exist(
        self, api: KubernetesApi, namespace: str
    ) -> None:
        never = paths.hoop_role_plan(namespace, "never")
        other_version = never.replace("v1alpha1", "v1never")
        other_group = never.replace("hoop.dev", "never.hoop.dev")

        for path in (never, paths.secret(namespace, "never"), paths.namespace("never")):
            with pytest.raises(ObjectNotFound):
                await api.get(path)
        with pytest.raises(ObjectNotFound):
            await api.create(paths.secrets("never"), {"metadata": {"name": "x"}})
        with pytest.raises(ObjectNotFound):
            await api.merge_patch(paths.status(never), {"status": {}})
        for path in (other_version, other_group):
            with pytest.raises(ClusterUnavailable, match="the CRDs are not installed"):
                await api.get(path)

    async def test_refused_values_are_quoted_by_the_server_but_not_by_us(
        self, api: KubernetesApi, namespace: str
    ) -> None:
        body = {"metadata": {"name": "x", "labels": {"password": PASSWORD}}}
        with pytest.raises(ObjectRejected) as quoted:
            await api.create(paths.config_maps(namespace), body)
        assert PASSWORD in str(quoted.value)

        for path in (paths.secrets(namespace), paths.hoop_resources(namespace)):
            with pytest.raises(ObjectRejected) as refused:
                await api.create(path, hoop_resource() | body if "hoop" in path else body)

            assert PASSWORD not in str(refused.value)
            assert path in str(refused.value)

    async def test_refused_secret_shows_no_value_in_error_or_log(
        self, caplog: pytest.LogCaptureFixture, secrets: Writer
    ) -> None:
        caplog.set_level(logging.DEBUG)
        secret = await secrets.create()

        with pytest.raises(ObjectRejected) as refused:
            await secrets.update(secret, data={"password": PASSWORD, "no such key!": "x"})

        assert refused.value.__cause__ is None
        for text in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode()):
            assert text not in str(refused.value) + repr(refused.value) + caplog.text + repr(secret)

    async def test_unknown_token_is_denied(
        self, stack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kubeconfig = read_yaml(stack.kubeconfig)
        for user in kubeconfig["users"]:
            user["user"] = {"token": "nobody"}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

        async with connect() as api:
            with pytest.raises(AccessDenied) as denied:
                await api.get(paths.namespace("default"))

        assert denied.value.status == 401

    async def test_no_key_of_a_kubeconfig_stays_in_a_file(
        self, stack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert all("client-key-data" in user["user"] for user in read_yaml(stack.kubeconfig)["users"])
        monkeypatch.setenv("KUBECONFIG", str(stack.kubeconfig))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

        async with connect() as api:
            await api.get(paths.namespace("default"))
            assert not await asyncio.to_thread(lambda: [*tmp_path.iterdir()])

    async def test_missing_kubeconfig_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))

        with pytest.raises(ClusterUnavailable, match="set KUBECONFIG"):
            async with connect():
                pass

    async def test_namespace_labels_are_read_by_name(self, api: KubernetesApi, namespace: str) -> None:
        labels = await namespace_labels(api, namespace)

        assert labels is not None
        assert labels["kubernetes.io/metadata.name"] == namespace
        assert await namespace_labels(api, "there-is-none") is None

    async def test_big_lists_come_in_pages_of_one_view(
        self, api: KubernetesApi, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_module, "PAGE_SIZE", 2)
        names = [f"c{number}" for number in range(5)]
        for name in names:
            body = {"metadata": {"name": name, "labels": {"listed": "yes"}}}
            await api.create(paths.config_maps(namespace), body)

        pages = [
            [item["metadata"]["name"] for item in page["items"]]
            async for page in api.pages(paths.config_maps(namespace), {"labelSelector": "listed=yes"})
        ]

        assert pages == [names[:2], names[2:4], names[4:]]


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def misbehaving(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KubernetesApi]:
    """Serve `answer` on every path of an API server of our own and connect to it."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        kubeconfig = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}"}}],
            "users": [{"name": "u", "user": {"token": PASSWORD}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        async with connect() as api:
            yield api
    finally:
        await runner.cleanup()


class TestMisbehavingServer:
    async def test_request_put_off_is_sent_again_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusals = 1
        bodies: list[Any] = []

        async def busy(request: web.Request) -> web.Response:
            bodies.append(await request.json())
            if len(bodies) <= refusals:
                return web.json_response(
                    {"reason": "TooManyRequests"}, status=429, headers={"Retry-After": "0"}
                )
            return web.json_response({"metadata": {}})

        async with misbehaving(busy, tmp_path, monkeypatch) as api:
            assert await api.create("/api/v1/x", {"a": 1}) == {"metadata": {}}
            assert bodies == [{"a": 1}, {"a": 1}]

            bodies.clear()
            refusals = 2
            with pytest.raises(ClusterUnavailable) as refused:
                await api.create("/api/v1/x", {"a": 1})

        assert refused.value.status == 429
        assert len(bodies) == 2

    async def test_only_so_many_requests_are_under_way_and_watches_do_not_count(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        under_way = most = 0
        full, release = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            nonlocal under_way, most
            if "watch" in request.query:
                answer = web.StreamResponse()
                await answer.prepare(request)
                await answer.write(b'{"type": "BOOKMARK"}\n')
                await release.wait()
                return answer
            under_way += 1
            most = max(most, under_way)
            if under_way == REQUESTS_AT_ONCE:
                full.set()
            await release.wait()
            under_way -= 1
            return web.json_response({"metadata": {}})

        async with (
            misbehaving(slow, tmp_path, monkeypatch) as api,
            asyncio.timeout(DEADLINE_SECONDS),
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(REQUESTS_AT_ONCE + 10):
                tasks.create_task(api.get("/api/v1/x"))
            await full.wait()
            watches = [api.watch(f"/api/v1/{number}", "1") for number in range(5)]
            for watch in watches:
                assert await anext(watch) == {"type": "BOOKMARK"}
                await watch.aclose()
            release.set()

        assert most == REQUESTS_AT_ONCE

    async def test_what_is_no_answer_of_an_api_server_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def strange(request: web.Request) -> web.Response:
            if request.path.endswith("html"):
                return web.Response(text="<h1>Please log in</h1>", content_type="text/html")
            if request.path.endswith("badgateway"):
                return web.Response(text="oops", status=502)
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

        async with misbehaving(strange, tmp_path, monkeypatch) as api:
            for path, status in (("/html", 0), ("/badgateway", 502), ("/hangup", 0)):
                with pytest.raises(ClusterUnavailable) as unavailable:
                    await api.merge_patch(path, {"password": PASSWORD})
                assert unavailable.value.status == status
                assert PASSWORD not in str(unavailable.value)

    async def test_expired_version_is_told_from_other_failures(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status = {
            "kind": "Status",
            "message": "too old resource version: 1 (290)",
            "reason": "Expired",
            "code": 410,
        }

        async def expired(request: web.Request) -> web.Response:
            if request.path == "/refused":
                return web.json_response(status, status=410)
            return web.json_response({"type": "ERROR", "object": status})

        async with misbehaving(expired, tmp_path, monkeypatch) as api:
            for path in ("/refused", "/within-the-stream"):
                with pytest.raises(ClusterUnavailable, match="too old") as unavailable:
                    await anext(api.watch(path, "1"))
                assert unavailable.value.status == 410

    async def test_server_that_does_not_answer_in_time_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_module, "REQUEST_SECONDS", 0.2)
        over = asyncio.Event()

        async def silent(_: web.Request) -> web.Response:
            await over.wait()
            return web.Response()

        async with misbehaving(silent, tmp_path, monkeypatch) as api:
            with pytest.raises(ClusterUnavailable, match="TimeoutError"):
                await api.get("/api/v1/x")
            over.set()

    async def test_watch_that_has_fallen_silent_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_module, "WATCH_SILENCE_SECONDS", 1.5)
        over = asyncio.Event()
        event = {"type": "ADDED", "object": {"metadata": {"resourceVersion": "2"}}}

        async def speak_once(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(json.dumps(event).encode() + b"\n")
            await over.wait()
            return answer

        async with misbehaving(speak_once, tmp_path, monkeypatch) as api:
            events = api.watch("/api/v1/x", "1")
            assert await anext(events) == event
            with pytest.raises(ClusterUnavailable, match="Timeout") as unavailable:
                await anext(events)
            assert unavailable.value.status == 0
            over.set()

    async def test_server_that_is_not_there_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def unused(_: web.Request) -> web.Response:
            return web.Response()

        async with misbehaving(unused, tmp_path, monkeypatch):
            pass

        async with connect() as api:
            with pytest.raises(ClusterUnavailable) as unavailable:
                await api.get("/api/v1/x")

        assert unavailable.value.status == 0
        assert PASSWORD not in str(unavailable.value)


class Changes:
    """What a metadata watch reported, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, str, str | None]] = asyncio.Queue()

    def __call__(self, namespace: str, name: str, version: str | None) -> None:
        self._queue.put_nowait((namespace, name, version))

    async def next(self) -> tuple[str, str, str | None]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._queue.get()


@asynccontextmanager
async def watching(api: KubernetesApi, path: str) -> AsyncIterator[Changes]:
    changes, ready = Changes(), asyncio.Event()
    task = asyncio.create_task(watch_metadata(api, path, changes, ready=ready))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await ready.wait()
        yield changes
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestWatch:
    async def test_reports_what_is_there_then_every_change_and_deletion(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        first = await secrets.create("first")

        async with watching(api, paths.secrets(namespace)) as changes:
            assert await changes.next() == (namespace, "first", first.resource_version)

            second = await secrets.create("second")
            assert await changes.next() == (namespace, "second", second.resource_version)

            changed = await secrets.update(second, data={"password": "new"})
            assert await changes.next() == (namespace, "second", changed.resource_version)

            await delete_secret(api, first)
            assert await changes.next() == (namespace, "first", None)

    async def test_cluster_wide_watch_names_the_namespace(
        self, api: KubernetesApi, namespace: str, secrets: Writer
    ) -> None:
        async with watching(api, paths.secrets()) as changes:
            secret = await secrets.create()
            while (change := await changes.next()) != (namespace, "creds", secret.resource_version):
                assert change[0] != namespace

    async def test_values_are_not_even_transferred(
        self, api: KubernetesApi, namespace: str, monkeypatch: pytest.MonkeyPatch, secrets: Writer
    ) -> None:
        received: list[dict[str, Any]] = []
        decode = api_module._object

        def recording(answer: bytes) -> dict[str, Any]:
            received.append(decode(answer))
            return received[-1]

        await secrets.create("first")
        monkeypatch.setattr(api_module, "_object", recording)
        async with watching(api, paths.secrets(namespace)) as changes:
            await changes.next()
            await secrets.create("second")
            await changes.next()

        listed, *events = [answer for answer in received if answer.get("kind") != "Secret"]
        assert [set(item) - {"kind", "apiVersion"} for item in listed["items"]] == [{"metadata"}]
        assert [event["object"]["kind"] for event in events] == ["PartialObjectMetadata"]
        assert "data" not in events[0]["object"]

    async def test_expired_version_lists_anew_and_reports_what_changed_meanwhile(
        self,
        api: KubernetesApi,
        namespace: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        secrets: Writer,
    ) -> None:
        caplog.set_level(logging.INFO, logger="hoop_operator.cluster.watch")
        watch = api.watch
        expired = ""
        await secrets.create("kept")
        doomed = await secrets.create("doomed")

        async def expired_at_first(
            path: str, version: str, *, accept: str
        ) -> AsyncIterator[Mapping[str, Any]]:
            nonlocal expired
            if not expired:
                expired = version
                await delete_secret(api, doomed)
                await secrets.create("new")
            if version == expired:
                raise ClusterUnavailable("too old resource version", status=410)
            async for event in watch(path, version, accept=accept):
                yield event

        monkeypatch.setattr(api, "watch", expired_at_first)
        async with watching(api, paths.secrets(namespace)) as changes:
            assert {(await changes.next())[1] for _ in range(2)} == {"kept", "doomed"}
            assert {(await changes.next())[1:] for _ in range(2)} == {
                ("doomed", None),
                ("new", (await secrets.read("new")).resource_version),
            }
            later = await secrets.create("later")
            assert await changes.next() == (namespace, "later", later.resource_version)

        assert caplog.records == []

    async def test_trouble_is_outlasted_and_logged_once(
        self,
        api: KubernetesApi,
        namespace: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        secrets: Writer,
    ) -> None:
        caplog.set_level(logging.INFO, logger="hoop_operator.cluster.watch")
        monkeypatch.setattr("hoop_operator.cluster.watch.RETRY_SECONDS_MIN", 0.01)
        watch = api.watch
        failures = 0

        async def broken_at_first(
            path: str, version: str, *, accept: str
        ) -> AsyncIterator[Mapping[str, Any]]:
            nonlocal failures
            if failures < 3:
                failures += 1
                raise ClusterUnavailable("connection refused")
            async for event in watch(path, version, accept=accept):
                yield event

        monkeypatch.setattr(api, "watch", broken_at_first)
        async with watching(api, paths.secrets(namespace)) as changes:
            secret = await secrets.create()
            assert await changes.next() == (namespace, "creds", secret.resource_version)
            changed = await secrets.update(secret, data={"password": "new"})
            assert await changes.next() == (namespace, "creds", changed.resource_version)

        assert failures == 3
        lost, again = [record.getMessage() for record in caplog.records]
        assert "connection refused" in lost
        assert "again" in again


def finalizers(body: Mapping[str, Any]) -> list[str]:
    return list(body["metadata"].get("finalizers", []))


async def hold_by_another(api: KubernetesApi, body: Mapping[str, Any]) -> dict[str, Any]:
    current = await api.get(paths.custom_object(body))
    patch = {"metadata": {"finalizers": [*finalizers(current), THEIRS]}}
    return await api.merge_patch(paths.custom_object(body), patch)


class TestFinalizers:
    async def test_added_once_and_removed_once(self, api: KubernetesApi, resource: dict[str, Any]) -> None:
        held = await add_finalizer(api, resource, OURS)
        assert finalizers(held) == [OURS]
        assert await add_finalizer(api, held, OURS) is held

        free = await remove_finalizer(api, held, OURS)
        assert finalizers(free) == []
        assert await remove_finalizer(api, free, OURS) is free

    async def test_adding_keeps_what_another_added_meanwhile(
        self, api: KubernetesApi, resource: dict[str, Any]
    ) -> None:
        await hold_by_another(api, resource)

        assert set(finalizers(await add_finalizer(api, resource, OURS))) == {OURS, THEIRS}

    async def test_removing_keeps_what_others_put_before_it_meanwhile(
        self, api: KubernetesApi, resource: dict[str, Any]
    ) -> None:
        held = await add_finalizer(api, resource, OURS)
        reordered = {"metadata": {"finalizers": [THEIRS, OURS]}}
        await api.merge_patch(paths.custom_object(resource), reordered)

        assert finalizers(await remove_finalizer(api, held, OURS)) == [THEIRS]

    async def test_many_at_once_lose_none(self, api: KubernetesApi, resource: dict[str, Any]) -> None:
        wanted = [f"example.com/f{number}" for number in range(4)]

        await asyncio.gather(*(add_finalizer(api, resource, finalizer) for finalizer in wanted))

        current = await api.get(paths.custom_object(resource))
        assert sorted(finalizers(current)) == wanted

    async def test_unrelated_change_costs_no_second_attempt(
        self, api: KubernetesApi, resource: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labelled = {"metadata": {"labels": {"team": "a"}}}
        await api.merge_patch(paths.custom_object(resource), labelled)
        monkeypatch.delattr(KubernetesApi, "get")

        held = await add_finalizer(api, resource, OURS)

        assert finalizers(held) == [OURS]
        assert held["metadata"]["labels"] == {"team": "a"}

    async def test_object_being_deleted_takes_no_finalizer(
        self, api: KubernetesApi, resource: dict[str, Any]
    ) -> None:
        await hold_by_another(api, resource)
        deleting = await api.delete(paths.custom_object(resource))

        for body in (resource, deleting):
            with pytest.raises(ObjectRejected, match="being deleted"):
                await add_finalizer(api, body, OURS)

    async def test_last_finalizer_lets_the_object_go(
        self, api: KubernetesApi, resource: dict[str, Any]
    ) -> None:
        held = await add_finalizer(api, resource, OURS)
        await api.delete(paths.custom_object(resource))

        await remove_finalizer(api, held, OURS)

        with pytest.raises(ObjectNotFound):
            await api.get(paths.custom_object(resource))
        with pytest.raises(ObjectNotFound):
            await remove_finalizer(api, held, OURS)
        with pytest.raises(ObjectNotFound):
            await add_finalizer(api, resource, OURS)

    async def test_successor_of_the_same_name_is_left_alone(
        self, api: KubernetesApi, namespace: str, resource: dict[str, Any]
    ) -> None:
        await api.delete(paths.custom_object(resource))
        successor = await api.create(paths.hoop_resources(namespace), hoop_resource())

        with pytest.raises(ObjectNotFound, match="another object"):
            await add_finalizer(api, resource, OURS)

        assert await api.get(paths.custom_object(resource)) == successor


class TestEvents:
    async def test_event_appears_beside_its_object(
        self, api: KubernetesApi, namespace: str, resource: dict[str, Any]
    ) -> None:
        await post_event(
            api, resource, type="Warning", reason="PlainPassword", message="ü" * 2000, action="Register"
        )

        (event,) = (await api.get(paths.events(namespace)))["items"]
        assert event["regarding"]["uid"] == resource["metadata"]["uid"]
        assert event["type"] == "Warning"
        assert event["reason"] == "PlainPassword"
        assert event["action"] == "Register"
        assert event["reportingController"] == "hoop.dev/operator"
        assert event["note"].startswith("üü")
        assert event["note"].endswith("…")
        assert 1020 <= len(event["note"].encode()) <= 1024

    async def test_event_that_cannot_be_posted_is_logged_and_no_more(
        self, api: KubernetesApi, resource: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        elsewhere = resource | {"metadata": resource["metadata"] | {"namespace": "there-is-none"}}

        await post_event(api, elsewhere, type="Normal", reason="Registered", message="m", action="Register")

        assert "Registered" in caplog.text
        assert "there-is-none" in caplog.text

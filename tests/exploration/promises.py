"""What the operator promises, as far as it can be seen from outside: on the API server and on the server."""

import base64
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

from exploration import api_server, postgresql
from exploration.api_server import ApiServer, Object
from exploration.postgresql import OWNER, PostgreSQL, RoleRow
from exploration.schedule import LIFE
from hoop_operator.cluster import paths
from hoop_operator.crd import Privilege
from hoop_operator.naming import (
    APPROVE,
    ROTATE_AT,
    connection_secret_name,
    default_secret_name,
    role_name,
)
from hoop_operator.planner.model import COMMENT_PREFIX, Identity, ObjectKind
from hoop_operator.planner.privileges import object_privileges
from hoop_operator.planner.scopes import parse_scope
from hoop_operator.postgres import scram
from hoop_operator.reconcile.objects import FINALIZER
from hoop_operator.reconcile.secret import DEFAULT_TYPE

ADDED_KEY = "theirs"
"""A key that people add to Secrets of plans."""

PLURALS = {ObjectKind.TABLE: "TABLES", ObjectKind.SEQUENCE: "SEQUENCES"}


class Promises:
    """Watches every change as it is made, and remembers what was broken."""

    def __init__(self, cluster: ApiServer, server: PostgreSQL) -> None:
        self.broken: list[str] = []
        self._cluster = cluster
        self._server = server
        self._requests: Counter[str] = Counter()
        self._rotations: Counter[str] = Counter()
        self._secrets: dict[str, str] = {}
        self._added: set[str] = set()
        """The Secrets to which somebody has added a key."""
        self._passwords: set[str] = set()
        self._approvals: Counter[str] = Counter()
        self._claims: dict[str, list[tuple[str | None, str | None]]] = defaultdict(list)
        """For each plan the approvals that were taken up: the `lastAppliedSid` before and after."""
        self._left: set[str] = set()
        """The comments of roles that were let go."""
        self._seen = 0
        cluster.watchers.append(self._see_object)
        server.watchers.append(self._see_commit)

    def check(self) -> None:
        """See that nothing has been broken so far."""
        assert not self.broken, self.broken

    def _see_object(self, change: api_server.Change) -> None:
        path, before, after = change
        by_operator = LIFE.get() is not None
        if "/secrets/" in path:
            self._see_secret(path, before, after, by_operator=by_operator)
        elif "/hoopresources/" in path:
            answered = [
                ((known or {}).get("status") or {}).get("observedGeneration", 0) for known in (before, after)
            ]
            if after is not None and answered[1] < answered[0]:
                self.broken.append(f"the status of {path} is about an older generation than the one before")
        elif "/hooproleplans/" in path:
            if after is not None:
                sids = [entry["sid"] for entry in (after.get("status") or {}).get("history") or ()]
                if len(set(sids)) < len(sids):
                    self.broken.append(f"a sid comes twice in the history of {path}")
                asked = [
                    (known or {"metadata": {}})["metadata"].get("annotations", {})
                    for known in (before, after)
                ]
                if asked[0].get(ROTATE_AT) != asked[1].get(ROTATE_AT):
                    self._requests[path] += 1
                if asked[0].get(APPROVE) != asked[1].get(APPROVE):
                    self._approvals[path] += 1
                self._see_claim(path, before or after, after)
            elif before is not None:
                self._forget_secret(before)
                if FINALIZER in before["metadata"].get("finalizers", ()):
                    self._see_end(before)

    def _see_claim(self, path: str, before: Object, after: Object) -> None:
        """An approval is taken up, or given back by who has made no use of it."""
        was, now = ((known.get("status") or {}).get("lastAppliedSid") for known in (before, after))
        if was == now or after["spec"].get("approval") != "Manual":
            return
        claims = self._claims[path]
        if claims and now == claims[-1][0]:
            claims.pop()
        else:
            claims.append((was, now))
        if len(claims) > self._approvals[path]:
            self.broken.append(f"{path} was applied more often than it was approved")

    def _see_secret(
        self, path: str, before: Object | None, after: Object | None, *, by_operator: bool
    ) -> None:
        if by_operator and before is not None:
            owners = before["metadata"].get("ownerReferences") or ()
            if [owner["kind"] for owner in owners] not in (["HoopRolePlan"], ["HoopResource"]):
                self.broken.append(f"{path} was not the operator's to change")
        password = _password(after) if after is not None else None
        if password:
            self._passwords.add(password)
        plan_path = path.replace("/api/v1", "/apis/hoop.dev/v1alpha1").replace("/secrets/", "/hooproleplans/")
        plan_path = plan_path.removesuffix("-credentials")
        former = self._secrets.get(path)
        added = ADDED_KEY in ((after or {}).get("data") or {})
        if by_operator and former and after is not None and path in self._added and not added:
            self.broken.append(f"{path} lost a key that somebody had added")
        if by_operator and former and password and former != password:
            self._rotations[plan_path] += 1
            if self._rotations[plan_path] > self._requests[plan_path]:
                self.broken.append(f"{path} got a new password that nobody had asked for")
        plan = self._cluster.objects.get(plan_path)
        if after is None and by_operator and plan is not None and "deletionTimestamp" not in plan["metadata"]:
            return  # to be replaced: the password goes on
        self._secrets[path] = password or ""
        (self._added.add if added else self._added.discard)(path)

    def _forget_secret(self, plan: Object) -> None:
        """What is held of a Secret goes with the plan, too."""
        metadata = plan["metadata"]
        path = paths.secret(metadata["namespace"], default_secret_name(metadata["name"]))
        if path not in self._cluster.objects:
            self._secrets.pop(path, None)
            self._added.discard(path)

    def _see_end(self, plan: Object) -> None:
        """The finalizer of a plan is off."""
        metadata = plan["metadata"]
        annotations = metadata.get("annotations") or {}
        leaves = (
            plan["spec"].get("deletionPolicy") == "Retain" or annotations.get("hoop.dev/abandon") == "true"
        )
        if leaves:
            self._left.add(_comment(plan))
        elif left := self._server.role_of(_comment(plan)):
            self.broken.append(f"plan {metadata['name']} is let go while role {left} is there")

    def _see_commit(self, who: str, changes: list[postgresql.Change]) -> None:
        sent = self._server.written[self._seen :]
        self._seen = len(self._server.written)
        self.broken += [
            f"a password reached the server: {text}"
            for text in sent
            for word in self._passwords
            if word in text
        ]
        if who == "somebody":
            return
        for plan in self._plans():
            metadata, spec = plan["metadata"], plan["spec"]
            path = paths.hoop_role_plan(metadata["namespace"], metadata["name"])
            if (
                spec.get("approval") == "Manual"
                and "deletionTimestamp" not in metadata
                and not self._claims[path]
            ):
                role = role_name(spec["resourceRef"]["name"], spec["role"])
                row = self._server.rows.get(("role", role))
                if any(_is_for_approval(change, role, row.oid if row else None) for change in changes):
                    self.broken.append(f"{who} changed role {role} without approval: {changes}")
        comments = {row[1]: before for row, before, _ in changes if row[0] == "comment"}
        for row, before, after in changes:
            if row[0] == "role" and before is not None:
                comment = comments.get(str(before.oid), self._server.comment(before.oid)) or ""
                if not comment.startswith(COMMENT_PREFIX) and before.oid not in self.known_oids():
                    self.broken.append(f"{who} changed role {row[1]}, which is nobody's, to {after}")

    def known_oids(self) -> set[int]:
        """The OIDs by which plans know their roles."""
        return {
            plan["status"]["roleOid"] for plan in self._plans() if "roleOid" in (plan.get("status") or {})
        }

    def _plans(self) -> list[Object]:
        return [known for path, known in self._cluster.objects.items() if "/hooproleplans/" in path]

    def check_everything_is_in_order(self) -> None:
        """See that everything is as the plans ask, and nothing is left of those that are gone."""
        for path, known in self._cluster.objects.items():
            if "/hoopresources/" in path:
                self._check_resource(known)
        for plan in self._plans():
            self._check_plan(plan)
        uids = {plan["metadata"]["uid"] for plan in self._plans()}
        held = [path for path in self._cluster.objects if path.partition("/secrets/hoop-held-")[2] in uids]
        assert not held, f"what is needed no more is still held: {held}"
        asked_for = {_comment(plan) for plan in self._plans()} | self._left
        for row, comment in self._server.rows.items():
            assert row[0] != "comment" or comment in asked_for, (
                f"a role is left that nobody asks for: {comment}"
            )

    def _check_resource(self, resource: Object) -> None:
        metadata, spec, status = resource["metadata"], resource["spec"], resource.get("status") or {}
        assert status.get("observedGeneration") == metadata["generation"], (metadata["name"], status)
        (ready,) = (entry for entry in status["conditions"] if entry["type"] == "Ready")
        assert ready["reason"] == "Registered", ready
        assert status.get("plans", 0) == sum(
            FINALIZER in (plan["metadata"].get("finalizers") or ())
            for plan in self._plans()
            if plan["spec"]["resourceRef"]["name"] == metadata["name"]
        ), status
        for role in spec.get("roles") or ():
            name = connection_secret_name(metadata["name"], role["name"])
            secret = self._cluster.objects.get(paths.secret(metadata["namespace"], name))
            assert secret is not None, f"the connection Secret of role {role['name']} is missing"
            (owner,) = secret["metadata"]["ownerReferences"]
            assert owner["uid"] == metadata["uid"]
            held = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
            assert role["secret"].items() <= held.items(), f"{name} holds {held}"
        wanted = {connection_secret_name(metadata["name"], role["name"]) for role in spec["roles"]}
        controlled = {
            known["metadata"]["name"]
            for known in self._cluster.objects.values()
            for owner in known["metadata"].get("ownerReferences") or ()
            if owner["uid"] == metadata["uid"]
        }
        assert controlled == wanted, f"connection Secrets are left: {controlled - wanted}"

    def _check_plan(self, plan: Object) -> None:
        metadata, spec, status = plan["metadata"], plan["spec"], plan.get("status") or {}
        name = metadata["name"]
        assert "deletionTimestamp" not in metadata, f"plan {name} was deleted and is still there: {status}"
        assert status.get("observedGeneration") == metadata["generation"], (name, status)
        (ready,) = (entry for entry in status["conditions"] if entry["type"] == "Ready")
        role = role_name(spec["resourceRef"]["name"], spec["role"])
        row: RoleRow | None = self._server.rows.get(("role", role))
        secret = self._cluster.objects.get(paths.secret(metadata["namespace"], default_secret_name(name)))
        conflicts = set()
        if row is not None and self._server.comment(row.oid) is None and row.oid != status.get("roleOid"):
            conflicts.add("RoleConflict")
        if secret is not None and not secret["metadata"].get("ownerReferences"):
            conflicts.add("SecretConflict")
        waits = {"PendingApproval"} if spec.get("approval") == "Manual" else set()
        assert ready["reason"] in (conflicts or {"Applied"}) | waits, (name, ready)
        if ready["reason"] != "Applied":
            return
        assert ready["status"] == "True"
        assert metadata.get("finalizers") == [FINALIZER], name
        assert (metadata.get("annotations") or {}).get(ROTATE_AT) == status.get("observedRotateAt"), (
            name,
            status,
        )
        assert row is not None, f"role {role} is missing"
        assert self._server.comment(row.oid) == _comment(plan)
        assert self._server.role_of(_comment(plan)) == [role]
        assert secret is not None, f"the Secret of {name} is missing"
        assert secret["type"] == (spec.get("secretTemplate") or {}).get("type", DEFAULT_TYPE)
        assert "hoop.dev/held-in" not in secret["metadata"]["annotations"]
        (owner,) = secret["metadata"]["ownerReferences"]
        assert owner["uid"] == metadata["uid"]
        assert scram.matches(_password(secret) or "", row.verifier or ""), (
            f"the password of {name} does not fit"
        )
        assert row == RoleRow(row.oid, verifier=row.verifier), row
        assert self._server.grants_of(row.oid) == _grants(spec), name


def _grants(spec: Any) -> set[tuple[str, ...]]:
    """All grants that a managed plan means, as `PostgreSQL.grants_of` has them."""
    scopes = {(scope.database, scope.schema) for scope in map(parse_scope, spec["scopes"])}
    wanted: set[tuple[str, ...]] = set()
    for database, schema in scopes:
        wanted.add(("acl", "DATABASE", "", "", database, "CONNECT", ""))
        for kind, privileges in object_privileges(map(Privilege, spec["privileges"])).items():
            for privilege in privileges:
                if kind is ObjectKind.SCHEMA:
                    wanted.add(("acl", "SCHEMA", database, "", schema, privilege, ""))
                    continue
                name = "orders" if kind is ObjectKind.TABLE else "orders_id_seq"
                if kind is ObjectKind.TABLE or schema == "public":
                    wanted.add(("acl", kind.value, database, schema, name, privilege, ""))
                wanted.add(("default", database, OWNER, schema, PLURALS[kind], privilege, ""))
    return wanted


def _is_for_approval(change: postgresql.Change, role: str, oid: int | None) -> bool:
    """Whether a change creates a role, or concerns its attributes or grants: what no password or deletion does."""
    (catalog, name, *_), before, after = change
    if catalog in {"acl", "default"}:
        return any(grant.grantee == oid for grant in (before or frozenset()) ^ (after or frozenset()))
    if (catalog, name) != ("role", role) or after is None:
        return False
    return before is None or replace(before, verifier=None) != replace(after, verifier=None)


def _comment(plan: Object) -> str:
    return Identity("default", plan["metadata"]["namespace"], plan["metadata"]["name"]).comment


def _password(secret: Object) -> str | None:
    encoded = (secret.get("data") or {}).get("password")
    return base64.b64decode(encoded).decode() if encoded else None

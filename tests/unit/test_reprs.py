"""What holds a password, or what the server stores for one, does not show it in a traceback or a log line."""

from typing import Any

import pytest

from hoop_operator.cluster.secrets import Secret, decode
from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.credentials.env import decode as decode_variables
from hoop_operator.credentials.sources import Source, Variable
from hoop_operator.errors import ResourceReason
from hoop_operator.planner.model import DesiredRole, Identity, Role
from hoop_operator.planner.plan import RolePlan
from hoop_operator.reconcile.agreements import Agreements
from hoop_operator.reconcile.objects import Plan, Resource
from hoop_operator.reconcile.register import Registration
from hoop_operator.reconcile.run import Run
from hoop_operator.reconcile.secret import PlanSecret
from hoop_operator.reconcile.turn import Work

PASSWORD = "s3cret-w0rd"
ENCODED = "czNjcmV0LXcwcmQ="
METADATA = {
    "namespace": "shop",
    "name": "db",
    "uid": "u-1",
    "generation": 1,
    "resourceVersion": "1",
    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": PASSWORD},
}


def secret() -> Secret:
    return decode({"metadata": METADATA, "type": "Opaque", "data": {"password": ENCODED}})


def connection() -> Connection:
    return Connection(
        "db.example", 5432, "admin", PASSWORD, "postgres", SslMode.DISABLE, None, None, PASSWORD, None
    )


def resource() -> Resource:
    role = {"name": "shell", "type": "application", "subtype": "tcp", "secret": {"TOKEN": PASSWORD}}
    spec = {
        "type": "database",
        "subtype": "postgres",
        "envVars": {"PASS": PASSWORD, "envvar:X": ENCODED},
        "roles": [role],
    }
    return Resource.parse({"kind": "HoopResource", "metadata": METADATA, "spec": spec})


def plan() -> Plan:
    spec = {"resourceRef": {"name": "db"}, "type": "external", "role": "ro", "sourceRole": "readers"}
    return Plan.parse({"kind": "HoopRolePlan", "metadata": METADATA, "spec": spec})


def role() -> Role:
    return Role(1, "ro", True, True, False, False, False, False, False, -1, False, None, True, True, PASSWORD)


def work() -> Work:
    desired = DesiredRole("ro", Identity("default", "shop", "db"))
    planned = RolePlan((), (), (), (), ())
    made = Work(Run(plan(), "spec", new_input=True), desired, planned, PlanSecret(secret(), PASSWORD))
    made.password = made.verifier = PASSWORD
    return made


def agreements() -> Agreements:
    made = Agreements()
    made.remember(plan(), PASSWORD, "1")
    return made


@pytest.mark.parametrize(
    "thing",
    [
        secret(),
        connection(),
        resource(),
        resource().spec,
        plan(),
        role(),
        work(),
        work().run,
        work().found,
        agreements(),
        Registration(resource(), ResourceReason.REGISTERED, connection=connection()),
        Source("Secret db", {"password": PASSWORD.encode()}),
        Variable(PASSWORD.encode(), "Secret db"),
        decode_variables({"PASS": PASSWORD}),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_it_shows_no_password(thing: Any) -> None:
    for shown in (repr(thing), str(thing), f"{thing}"):
        assert PASSWORD not in shown
        assert ENCODED not in shown

"""Anything that may happen, in any order: hypothesis looks for a story in which a promise is broken.

HYPOTHESIS_PROFILE=anew EXPLORE_EXAMPLES=5000 .venv/bin/pytest tests/exploration/test_any_order.py
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from exploration.schedule import Gate
from exploration.world import World, worlds
from hoop_operator.reconcile.secret import DEFAULT_TYPE

EXAMPLES = int(os.environ.get("EXPLORE_EXAMPLES", "400"))
STEPS = 30

NAMES = st.sampled_from(["ro", "rw", "guarded", "squatted", "taken"])
PRIVILEGES = st.sampled_from([["SELECT"], ["INSERT"], ["SELECT", "INSERT", "DELETE"]])
SCOPES = st.sampled_from([["shop"], ["shop.extra"], ["shop", "shop.extra"]])
CHOICES = st.lists(st.integers(0, 5), min_size=1, max_size=25)


class AnyOrder(RuleBasedStateMachine):
    """Users, administrators, operators, their deaths, and time."""

    make_world = World

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world()
        self.world.start()
        self.value = 0

    @rule(choices=CHOICES)
    def go_on(self, choices: list[int]) -> None:
        """Whatever is under way goes on."""
        for choice in choices:
            self.world.step(choice)

    @rule()
    def come_to_rest(self) -> None:
        """Everything that is under way comes to its end."""
        self.world.run()

    @rule()
    def pass_time(self) -> None:
        """Much time goes by, in which what failed is tried again and all servers are looked at."""
        self.world.run(330)

    @rule(name=NAMES, privileges=PRIVILEGES, scopes=SCOPES)
    def apply_plan(self, name: str, privileges: list[str], scopes: list[str]) -> None:
        """A user applies a plan."""
        if self.world.plan(name) is None:
            approval = {"approval": "Manual"} if name == "guarded" else {}
            self.world.create_plan(name, privileges=privileges, scopes=scopes, **approval)
        else:
            self.world.patch_plan(name, spec={"privileges": privileges, "scopes": scopes})

    @rule(name=NAMES, kind=st.sampled_from([DEFAULT_TYPE, "Opaque"]))
    def change_type(self, name: str, kind: str) -> None:
        """A user asks for a Secret of another type, in which somebody has a key of their own."""
        if self.world.plan(name) is not None:
            self.world.change_secret(name, self.world.add_key)
            self.world.patch_plan(name, spec={"secretTemplate": {"type": kind}})

    @rule(name=NAMES, annotation=st.sampled_from(["rotate-at", "reconcile-at"]))
    def annotate(self, name: str, annotation: str) -> None:
        """A user asks for a rotation, or for a look."""
        if self.world.plan(name) is not None:
            self.value += 1
            self.world.annotate(name, annotation, str(self.value))

    @rule()
    def approve(self) -> None:
        """Somebody approves what waits."""
        self.world.approve("guarded")

    @rule(name=NAMES)
    def make_anew(self, name: str) -> None:
        """A user makes a plan anew for another resource; as long as it has a role it is only deleted."""
        if self.world.plan(name) is not None:
            for life in self.world.operators[:-1]:
                life.leading = False
            self.world.make_anew(name)

    @rule(name=NAMES, abandon=st.booleans())
    def delete_plan(self, name: str, *, abandon: bool) -> None:
        """A user deletes a plan, with or without its role.

        Its end is told by no version of a role: against two who lead then only the lease helps.
        """
        if self.world.plan(name) is not None:
            for life in self.world.operators[:-1]:
                life.leading = False
            if abandon:
                self.world.annotate(name, "abandon", "true")
            self.world.delete_plan(name)

    @rule(name=NAMES, change=st.sampled_from(["delete_secret", "empty_secret", "edit_secret"]))
    def change_secret(self, name: str, change: str) -> None:
        """A user does something to a Secret."""
        self.world.change_secret(name, getattr(self.world, change))

    @rule()
    def change_resource(self) -> None:
        """A user changes the resource."""
        self.world.change_resource()

    @rule(change=st.sampled_from(["delete_secret", "change_value"]))
    def change_connection_secret(self, change: str) -> None:
        """A user does something to the Secret of the resource's role."""
        self.world.change_connection_secret(getattr(self.world, change))

    @rule(
        name=NAMES,
        change=st.sampled_from(
            ["drop_role", "change_password", "lock_out", "lose_comment", "revoke", "grant"]
        ),
    )
    def change_server(self, name: str, change: str) -> None:
        """An administrator does something on the server."""
        self.world.change_server(name, getattr(self.world, change))

    @rule()
    def collect_garbage(self) -> None:
        """The garbage collector comes round."""
        self.world.collect_garbage()

    @precondition(lambda self: self.world.gates)
    @rule(choice=st.integers(0, 5))
    def lose(self, choice: int) -> None:
        """A request is lost, or the answer to it."""
        breakable: list[Gate] = [gate for gate in self.world.gates if gate.fault is not None]
        if breakable:
            self.world.schedule.lose(breakable[choice % len(breakable)])

    @precondition(lambda self: len(self.world.operators) == 1 and not self.world.deleting)
    @rule()
    def start_another(self) -> None:
        """Another operator starts, which takes the first for dead or does not know of it."""
        self.world.start()

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        """An operator dies; another one takes its place."""
        self.world.kill(self.world.operators[which % len(self.world.operators)])
        if not self.world.operators:
            self.world.start()

    @rule(which=st.integers(0, 1), steps=st.integers(1, 40))
    def go_on_alone(self, which: int, steps: int) -> None:
        """One operator goes on, and another one, if there is one, is frozen."""
        life = self.world.operators[which % len(self.world.operators)]
        for _ in range(steps):
            self.world.step(only=life)

    def teardown(self) -> None:
        """Everything comes to its end."""
        try:
            if not self.world.promises.broken:
                self.world.settle()
        finally:
            note("\n".join(self.world.schedule.trace))
            self.world.close()


@pytest.fixture(scope="module", autouse=True)
def _stand_ins() -> Iterator[None]:
    with worlds() as make:
        AnyOrder.make_world = staticmethod(make)  # type: ignore[assignment]
        yield


def test_no_order_of_things_breaks_a_promise() -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Every moment of a story, one after the other, as the one at which something goes wrong.

A story is short enough for all its moments to be tried: what an operator has decided and not done yet, and what it has
done and not heard of yet (see `schedule`). More stories, and more than one thing that goes wrong: `test_any_order`.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest

from exploration.world import CONNECTION, World, worlds

PLAN = "ro"
MOMENTS_MAX = 200

Story = Callable[[World], None]


@pytest.fixture(scope="module")
def make_world() -> Iterator[Callable[[], World]]:
    with worlds() as make:
        yield make


def create(world: World) -> None:
    world.create_plan(PLAN)


def create_another(world: World) -> None:
    world.create_plan("rw", privileges=["INSERT"])


def edit(world: World) -> None:
    world.patch_plan(PLAN, spec={"privileges": ["INSERT"], "scopes": ["shop", "shop.extra"]})


def rotate(world: World) -> None:
    world.annotate(PLAN, "rotate-at", f"{len(world.cluster.changes)}")


def approve(world: World) -> None:
    world.patch_plan(PLAN, spec={"approval": "Manual", "privileges": ["INSERT"]})
    world.run()
    world.approve(PLAN)


def make_anew(world: World) -> None:
    world.make_anew(PLAN)


def delete(world: World) -> None:
    world.delete_plan(PLAN)


def abandon(world: World) -> None:
    world.annotate(PLAN, "abandon", "true")
    world.delete_plan(PLAN)


def delete_secret(world: World) -> None:
    world.change_secret(PLAN, world.delete_secret)


def edit_secret(world: World) -> None:
    world.change_secret(PLAN, world.edit_secret)


def empty_secret(world: World) -> None:
    world.change_secret(PLAN, world.empty_secret)


def change_type(world: World) -> None:
    world.change_secret(PLAN, world.add_key)
    world.patch_plan(PLAN, spec={"secretTemplate": {"type": "Opaque"}})


def make_again(world: World) -> None:
    world.change_secret(PLAN, world.add_key)
    abandon(world)
    world.run()
    world.create_plan(PLAN, secretTemplate={"type": "Opaque"})


def drop_role(world: World) -> None:
    world.change_server(PLAN, world.drop_role)
    world.annotate(PLAN, "reconcile-at", "now")


def change_password(world: World) -> None:
    world.change_server(PLAN, world.change_password)
    world.annotate(PLAN, "reconcile-at", "now")


def change_grants(world: World) -> None:
    world.change_server(PLAN, world.revoke)
    world.change_server(PLAN, world.grant)
    world.annotate(PLAN, "reconcile-at", "now")


def edit_resource(world: World) -> None:
    world.change_resource()


def add_roles(world: World) -> None:
    world.have_roles(CONNECTION, "more", "another")


def rename_role(world: World) -> None:
    world.have_roles("another")


def delete_connection_secret(world: World) -> None:
    world.change_connection_secret(world.delete_secret)


def edit_connection_secret(world: World) -> None:
    world.change_connection_secret(world.change_value)


STORIES = [
    create,
    create_another,
    edit,
    rotate,
    approve,
    delete,
    abandon,
    delete_secret,
    edit_secret,
    empty_secret,
    change_type,
    make_again,
    drop_role,
    change_password,
    change_grants,
    edit_resource,
    add_roles,
    rename_role,
    delete_connection_secret,
    edit_connection_secret,
]


def begin(make_world: Callable[[], World], story: Story, operators: int = 1) -> World:
    """Have operators at work, and a story begun that they have not done anything about."""
    world = make_world()
    for _ in range(operators):
        world.start()
        world.run()
    if story is not create:
        world.create_plan(PLAN)
    world.run()
    story(world)
    return world


def moments(
    make_world: Callable[[], World],
    story: Story,
    go_wrong: Callable[[World], None],
    *,
    kept: int = 0,
    operators: int = 1,
) -> None:
    """Tell a story as often as it has moments, each time with something going wrong at another one.

    Where there are several operators, the first one alone works up to that moment.
    """
    for moment in range(MOMENTS_MAX):
        world = begin(make_world, story, operators)
        try:
            passed = 0
            while passed < moment and world.step(only=world.operators[0]):
                passed += 1
            if passed < moment:
                assert moment > kept
                return
            go_wrong(world)
            world.settle()
        except AssertionError as broken:
            raise AssertionError(
                f"at moment {moment} of {story.__name__}: {broken}\n" + "\n".join(world.schedule.trace)
            ) from broken
        finally:
            world.close()
    raise AssertionError(f"{story.__name__} has no end")


@pytest.mark.parametrize("story", STORIES)
def test_the_operator_may_die(make_world: Callable[[], World], story: Story) -> None:
    def die(world: World) -> None:
        world.kill(world.operators[0])

    moments(make_world, story, die, kept=5)


@pytest.mark.parametrize("second", [edit_resource, rename_role])
def test_the_next_thing_may_happen_to_the_resource_while_no_operator_lives(
    make_world: Callable[[], World], second: Story
) -> None:
    def die(world: World) -> None:
        world.kill(world.operators[0])
        second(world)

    moments(make_world, add_roles, die, kept=5)


@pytest.mark.parametrize("story", STORIES)
def test_a_request_or_its_answer_may_be_lost(make_world: Callable[[], World], story: Story) -> None:
    def lose(world: World) -> None:
        for gate in list(world.gates):
            if gate.fault is not None:
                world.schedule.lose(gate)

    moments(make_world, story, lose, kept=5)


def test_a_replacement_of_the_secret_that_was_cut_short_may_be_called_off(
    make_world: Callable[[], World],
) -> None:
    def die(world: World) -> None:
        world.kill(world.operators[0])
        world.patch_plan(PLAN, spec={"secretTemplate": None})

    moments(make_world, change_type, die, kept=5)


@pytest.mark.parametrize("second", [edit, rotate, delete, make_anew, delete_secret, edit_secret, drop_role])
@pytest.mark.parametrize(
    "story", [create, edit, rotate, empty_secret, edit_secret, change_type, drop_role, delete]
)
def test_the_next_thing_may_happen_meanwhile(
    make_world: Callable[[], World], story: Story, second: Story
) -> None:
    def happen(world: World) -> None:
        if world.plan(PLAN) is not None:
            second(world)

    moments(make_world, story, happen, kept=5)


@pytest.mark.parametrize(
    "second", [edit_resource, rename_role, delete_connection_secret, edit_connection_secret]
)
@pytest.mark.parametrize("story", [edit_resource, add_roles, edit_connection_secret, create])
def test_the_next_thing_may_happen_to_the_resource_meanwhile(
    make_world: Callable[[], World], story: Story, second: Story
) -> None:
    moments(make_world, story, second)


@pytest.mark.parametrize(
    ("story", "second"),
    [
        *itertools.product(
            [create, edit, rotate, delete_secret, change_type, drop_role, delete], [edit, rotate, delete]
        ),
        (edit_resource, edit_resource),
    ],
)
def test_an_operator_may_freeze_while_another_one_works(
    make_world: Callable[[], World], story: Story, second: Story
) -> None:
    def freeze(world: World) -> None:
        frozen, other = world.operators
        # The plan's end is told by no version of a role: against that only the lease helps, and what is on its way.
        frozen.leading = second is not delete
        if world.plan(PLAN) is not None:
            second(world)
        for life in (other, frozen, other):
            world.run(only=life)

    moments(make_world, story, freeze, kept=5, operators=2)

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hoop_operator.errors import PlanReason
from hoop_operator.planner.model import Database, DatabaseObject, ObjectKind, Server
from hoop_operator.planner.plan import databases_of, plan_role
from hoop_operator.planner.removal import (
    databases_to_empty,
    drop,
    empty_database,
    give_away,
    give_away_shared,
    revoke_shared,
)
from unit.planning import (
    ADMIN,
    ROLE,
    Grant,
    database,
    database_object,
    desired,
    membership,
    role,
    schema,
    server,
)

OBJECTS = [schema("public", 1), database_object(ObjectKind.TABLE, 11, "public")]
EXTRA = Grant(ObjectKind.TABLE, 11, "DELETE")


def with_databases(**more: Any) -> Server:
    return server(
        databases=[
            Database(1, "db", "owner", True, False, True),
            Database(2, "closed", "owner", False, False, True),
            Database(3, "template", "owner", True, True, True),
            Database(4, "barred", "owner", True, False, False),
        ],
        **more,
    )


def test_a_new_role_is_made_before_a_database_names_it() -> None:
    planned = plan_role(desired(["db"], ["SELECT"]), server(), {"db": database(OBJECTS)})
    assert planned.problems == ()
    assert [(s.database, s.phase) for s in planned.statements] == sorted(
        [(s.database, s.phase) for s in planned.statements], key=lambda key: (key[0] is not None, key)
    )
    assert planned.statements[0].text.startswith("CREATE ROLE")


def test_the_statements_stand_in_the_same_order_in_every_process() -> None:
    """A person compares what is shown before and after a restart."""
    script = (
        "from unit.test_planner_plan import *\n"
        "asked = desired(['db.public', 'db.other'], ['SELECT', 'INSERT', 'CREATE', 'EXECUTE'])\n"
        "there = [schema('public', 1), schema('other', 2)]\n"
        "there += [database_object(ObjectKind.TABLE, 10 + n, s) for n, s in enumerate(['public', 'other'])]\n"
        "there += [database_object(ObjectKind.SEQUENCE, 20 + n, s) for n, s in enumerate(['public', 'other'])]\n"
        "planned = plan_role(asked, server(), {'db': database(there, schemas=['public', 'other'])})\n"
        "assert not planned.problems\n"
        "print([statement.text for statement in planned.statements])"
    )
    tests = Path(__file__).parents[1]
    shown = {
        subprocess.run(  # noqa: S603 -- this very interpreter
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": f"{tests}:{tests.parent}/operator"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(1, 5)
    }
    assert len(shown) == 1


def test_all_that_is_wrong_is_listed_and_only_revokes_are_planned() -> None:
    picture = with_databases(
        roles=[role(login=False)],
        memberships=[membership("group", ROLE), membership("group2", ROLE, admin=True)],
    )
    asked = desired(["db.none", "db", "closed", "template", "barred", "gone"], ["SELECT"])
    planned = plan_role(asked, picture, {"db": database(OBJECTS, [EXTRA])})

    assert [reason for reason, _ in planned.problems] == [
        PlanReason.INSUFFICIENT_PRIVILEGE,  # barred
        PlanReason.DATABASE_NOT_FOUND,  # closed
        PlanReason.SCHEMA_NOT_FOUND,  # db.none
        PlanReason.DATABASE_NOT_FOUND,  # gone
        PlanReason.DATABASE_NOT_FOUND,  # template
    ]
    said = "\n".join(message for _, message in planned.problems)
    for word in ("GRANT CONNECT", "takes no connections", '"none"', '"gone"', "template"):
        assert word in said
    assert all(statement.phase.takes_away for statement in planned.statements)
    assert len(planned.statements) == 3


def test_a_conflict_is_listed_with_the_rest_and_nothing_is_planned() -> None:
    picture = with_databases(roles=[role(comment=None)])
    planned = plan_role(desired(["db", "gone"], ["SELECT"]), picture, {"db": database(OBJECTS, [EXTRA])})
    assert [reason for reason, _ in planned.problems] == [
        PlanReason.ROLE_CONFLICT,
        PlanReason.DATABASE_NOT_FOUND,
    ]
    assert planned.statements == ()


def test_a_database_dropped_meanwhile_fails_only_the_plan_that_asks_for_it() -> None:
    picture = with_databases(roles=[role()], holdings={ROLE: frozenset({"db"})})
    assert plan_role(desired(), picture, {}).problems == ()
    ((reason, _),) = plan_role(desired(["db"], ["SELECT"]), picture, {}).problems
    assert reason is PlanReason.DATABASE_NOT_FOUND


def test_the_databases_to_read_are_those_of_the_scopes_and_wherever_the_role_holds_anything() -> None:
    picture = with_databases(holdings={ROLE: frozenset({"template", "closed", "dropped"})})
    assert databases_of(desired(["db", "barred", "gone"]), picture) == {"db", "template"}
    assert databases_of(desired(source_role="source"), picture) == frozenset()


def test_an_external_plan_leaves_the_roles_own_grants_alone() -> None:
    picture = server(
        roles=[role(), role("source")],
        memberships=[membership("source", ROLE)],
        grants=[Grant(ObjectKind.DATABASE, 1, "CONNECT")],
        holdings={ROLE: frozenset({"db"})},
    )
    planned = plan_role(desired(source_role="source"), picture, {"db": database(OBJECTS, [EXTRA])})
    assert (planned.statements, planned.problems) == ((), ())


def test_what_a_person_should_know_is_said() -> None:
    picture = with_databases(
        roles=[role()],
        memberships=[membership(ROLE, "friend")],
        holdings={ROLE: frozenset({"closed", "barred", "db"})},
    )
    state = replace(database(OBJECTS), owned={ROLE: tuple(f"table t{n}" for n in range(12))})
    planned = plan_role(desired(["db"], ["SELECT"]), picture, {"db": state})
    said = "\n".join(planned.observations)
    assert '"friend"' in said
    assert '"closed"' in said
    assert '"barred"' in said
    assert "table t9 and 2 more" in said
    creating = plan_role(desired(["db"], ["CREATE"]), picture, {"db": state})
    assert "table t9" not in "\n".join(creating.observations)


def test_a_removal_reassigns_and_revokes_what_it_can_and_names_what_it_cannot() -> None:
    state = replace(
        database(OBJECTS, [EXTRA]),
        owned={ROLE: ("table t",)},
        bound={ROLE: ("policy narrow on table t",)},
    )
    picture = server(roles=[role()])
    difference = empty_database(desired(), state, picture)
    assert [statement.text for statement in give_away(desired(), state, picture, ["its"])] == [
        f'REASSIGN OWNED BY "{ROLE}" TO "owner"'
    ]
    assert [statement.text for statement in difference.statements] == [
        f'REVOKE DELETE ON ALL TABLES IN SCHEMA "public" FROM "{ROLE}"',
    ]
    ((reason, message),) = difference.problems
    assert reason is PlanReason.DEPENDENT_OBJECTS
    assert 'policy narrow on table t in database "db"' in message


def test_a_removal_gives_databases_and_tablespaces_to_the_admin_and_takes_what_is_shared() -> None:
    picture = with_databases(
        roles=[role()],
        grants=[Grant(ObjectKind.DATABASE, 1, "CONNECT")],
        owned={
            ROLE: (
                DatabaseObject(1, ObjectKind.DATABASE, None, 'd"b', ROLE),
                DatabaseObject(2, ObjectKind.TABLESPACE, None, "disk", ROLE),
            )
        },
        holdings={ROLE: frozenset({"closed", "db", "dropped"})},
    )
    assert [statement.text for statement in give_away_shared(desired(), picture)] == [
        f'ALTER DATABASE "d""b" OWNER TO "{ADMIN}"',
        f'ALTER TABLESPACE "disk" OWNER TO "{ADMIN}"',
    ]
    assert [statement.text for statement in revoke_shared(desired(), picture).statements] == [
        f'REVOKE CONNECT ON DATABASE "db" FROM "{ROLE}"'
    ]
    assert databases_to_empty(desired(), picture) == ["closed", "db"]
    assert drop(desired()).text == f'DROP ROLE "{ROLE}"'

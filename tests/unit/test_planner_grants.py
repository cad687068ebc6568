from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanReason
from hoop_operator.planner.acl_size import ENTRIES_KEPT_FREE
from hoop_operator.planner.default_privileges import future_owners, restore_own_defaults
from hoop_operator.planner.grants import database_difference, shared_difference
from hoop_operator.planner.model import (
    CrowdedAcl,
    DatabaseObject,
    DatabaseState,
    DefaultAclEntry,
    ObjectKind,
)
from hoop_operator.planner.privileges import object_privileges
from hoop_operator.planner.statements import GRANTEES_PER_STATEMENT, OBJECTS_PER_STATEMENT, Phase, merge
from unit.planning import ADMIN, ROLE, Grant, Ledger, database, database_object, desired, schema, server

PUBLIC = schema("public", 1)
TABLES = [database_object(ObjectKind.TABLE, oid, "public") for oid in (11, 12)]
SEQUENCE = database_object(ObjectKind.SEQUENCE, 13, "public")
ROUTINES = [database_object(ObjectKind.ROUTINE, oid, "public") for oid in (14, 15)]
FAR = database_object(ObjectKind.TABLE, 21, "far")
OBJECTS = [PUBLIC, *TABLES, SEQUENCE, *ROUTINES, FAR]


def texts(state: DatabaseState, *privileges: str, phase: Phase | None = None) -> list[str]:
    difference = database_difference(desired(["db"], privileges), state, server())
    assert difference.problems == []
    return [s.text for s in difference.statements if phase is None or s.phase is phase]


def test_the_nine_privileges_have_each_their_legal_place() -> None:
    assert object_privileges(Privilege) == {
        ObjectKind.SCHEMA: {"USAGE", "CREATE"},
        ObjectKind.TABLE: {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"},
        ObjectKind.SEQUENCE: {"USAGE", "SELECT"},
        ObjectKind.ROUTINE: {"EXECUTE"},
    }
    assert object_privileges([Privilege.DELETE]).keys() == {ObjectKind.SCHEMA, ObjectKind.TABLE}
    assert object_privileges([Privilege.EXECUTE]).keys() == {ObjectKind.SCHEMA, ObjectKind.ROUTINE}


def test_a_schema_that_lacks_it_altogether_is_granted_in_bulk_with_its_size() -> None:
    difference = database_difference(desired(["db"], ["SELECT"]), database(OBJECTS), server())
    (bulk,) = [s for s in difference.statements if "ALL TABLES" in s.head]
    assert (bulk.text, bulk.objects) == (f'GRANT SELECT ON ALL TABLES IN SCHEMA "public" TO "{ROLE}"', 2)


def test_where_some_have_it_the_others_are_granted_by_name() -> None:
    state = database(OBJECTS, [Grant(ObjectKind.TABLE, 11, "SELECT")])
    assert f'GRANT SELECT ON TABLE "public"."table_12" TO "{ROLE}"' in texts(state, "SELECT")


def test_what_the_role_owns_is_neither_granted_nor_revoked() -> None:
    own = replace(TABLES[0], owner=ROLE)
    state = database([PUBLIC, own, TABLES[1]], [Grant(ObjectKind.TABLE, 11, "DELETE", grantor=ROLE)])
    statements = texts(state, "SELECT")
    assert f'GRANT SELECT ON TABLE "public"."table_12" TO "{ROLE}"' in statements
    assert not any("table_11" in text for text in statements)


def test_a_revoke_outside_of_the_scopes_is_never_in_bulk() -> None:
    state = database(OBJECTS, [Grant(ObjectKind.TABLE, 21, "SELECT")])
    assert texts(state, "SELECT", phase=Phase.REVOKE) == [
        'REVOKE SELECT ON TABLE "far"."table_21" FROM "ours"'
    ]


def test_a_revoke_of_the_whole_schema_is_in_bulk() -> None:
    state = database(OBJECTS, [Grant(ObjectKind.TABLE, oid, "DELETE") for oid in (11, 12)])
    assert texts(state, "SELECT", phase=Phase.REVOKE) == [
        f'REVOKE DELETE ON ALL TABLES IN SCHEMA "public" FROM "{ROLE}"'
    ]


def test_a_column_grant_is_extra_even_of_a_privilege_that_is_asked() -> None:
    state = database(
        OBJECTS,
        [
            Grant(ObjectKind.TABLE, 11, "SELECT", column='odd"column'),
            Grant(ObjectKind.SEQUENCE, 13, "SELECT", column="last_value"),
        ],
    )
    assert texts(state, "SELECT", phase=Phase.REVOKE) == [
        'REVOKE SELECT ("odd""column") ON TABLE "public"."table_11" FROM "ours"',
        # PostgreSQL takes columns of a sequence under the name of TABLE only.
        'REVOKE SELECT ("last_value") ON TABLE "public"."sequence_13" FROM "ours"',
    ]


def test_of_an_asked_privilege_only_the_grant_option_is_taken() -> None:
    state = database(OBJECTS, [Grant(ObjectKind.TABLE, 11, "SELECT", grantable=True)])
    assert texts(state, "SELECT", phase=Phase.REVOKE) == [
        'REVOKE GRANT OPTION FOR SELECT ON TABLE "public"."table_11" FROM "ours"'
    ]


def test_another_grantors_grant_is_revoked_as_that_grantor() -> None:
    state = database(OBJECTS, [Grant(ObjectKind.TABLE, 11, "DELETE", grantor="lender")])
    assert texts(state, "SELECT", phase=Phase.REVOKE) == [
        f'SET LOCAL ROLE "lender"; REVOKE DELETE ON TABLE "public"."table_11" FROM "{ROLE}"; SET LOCAL ROLE NONE'
    ]


PASSED_ON = Grant(ObjectKind.TABLE, 11, "DELETE", grantee="friend", grantor=ROLE)


@pytest.mark.parametrize("privilege", ["SELECT", "DELETE"])
@pytest.mark.parametrize("column", [None, "a"])
def test_a_grant_that_was_passed_on_is_left_and_named_with_the_sql(
    privilege: str, column: str | None
) -> None:
    grants = [Grant(ObjectKind.TABLE, 11, "DELETE", grantable=True), PASSED_ON._replace(column=column)]
    difference = database_difference(desired(["db"], [privilege]), database(OBJECTS, grants), server())
    ((reason, message),) = difference.problems
    assert reason is PlanReason.DEPENDENT_GRANTS
    shown = ' ("a")' if column else ""
    assert message.endswith(
        f'run: BEGIN; SET LOCAL ROLE "{ROLE}"; REVOKE DELETE{shown} ON TABLE "public"."table_11" FROM "friend" '
        "CASCADE; SET LOCAL ROLE NONE; COMMIT;"
    )
    assert not any(statement.phase is Phase.REVOKE for statement in difference.statements)


def test_only_the_grant_by_whose_option_it_was_passed_on_is_left() -> None:
    grants = [
        Grant(ObjectKind.TABLE, 11, "DELETE", grantable=True),
        Grant(ObjectKind.TABLE, 11, "DELETE", grantor="lender"),
        PASSED_ON,
    ]
    difference = database_difference(desired(["db"], ["SELECT"]), database(OBJECTS, grants), server())
    assert len(difference.problems) == 1
    assert [s.as_role for s in difference.statements if s.phase is Phase.REVOKE] == ["lender"]


def test_a_routine_that_its_extension_withholds_is_left_out_named_and_taken_back() -> None:
    state = database(OBJECTS, [Grant(ObjectKind.ROUTINE, 14, "EXECUTE")], withheld=[14])
    difference = database_difference(desired(["db"], ["EXECUTE"]), state, server())
    assert difference.withheld_routines == ['"db": "public"."routine_14"()']
    routines = [s.text for s in difference.statements if '"routine_' in s.text]
    assert routines == [
        f'REVOKE EXECUTE ON ROUTINE "public"."routine_14"() FROM "{ROLE}"',
        f'GRANT EXECUTE ON ROUTINE "public"."routine_15"() TO "{ROLE}"',
    ]


def test_connect_is_granted_where_a_scope_is_and_revoked_where_none_is_left() -> None:
    held = [Grant(ObjectKind.DATABASE, 1, name) for name in ("CONNECT", "TEMPORARY")]
    assert [
        s.text for s in shared_difference(desired(["db"], ["SELECT"]), server(grants=held)).statements
    ] == [f'REVOKE TEMPORARY ON DATABASE "db" FROM "{ROLE}"']
    assert [s.text for s in shared_difference(desired(), server(grants=held)).statements] == [
        f'REVOKE CONNECT, TEMPORARY ON DATABASE "db" FROM "{ROLE}"'
    ]
    assert [s.text for s in shared_difference(desired(["db"]), server()).statements] == [
        f'GRANT CONNECT ON DATABASE "db" TO "{ROLE}"'
    ]


def test_future_owners_are_those_who_own_or_may_create_but_superusers_only_if_they_own() -> None:
    def owners(owner: str, object_owner: str, *creators: str) -> frozenset[str]:
        state = database(
            [schema("public", 1, owner), database_object(ObjectKind.TABLE, 11, "public", object_owner)],
            creators=creators,
            owner="datdba",
        )
        return future_owners(state.schemas["public"], state, frozenset({"super", "super2"}))

    assert owners("a", "b", "c") == {"a", "b", "c"}
    assert owners("super", "b", "super2") == {"b"}
    assert owners("super", "super", "super2") == {"super"}
    assert owners("pg_database_owner", "b") == {"datdba", "b"}


def test_future_objects_are_granted_for_every_owner_but_the_role_itself() -> None:
    state = database([PUBLIC, TABLES[0]], creators=["creator", ROLE])
    defaults = [text for text in texts(state, "SELECT") if text.startswith("ALTER DEFAULT")]
    assert defaults == [
        f'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" IN SCHEMA "public" GRANT SELECT ON TABLES TO "{ROLE}"'
        for owner in ("creator", "owner")
    ]


def test_a_global_default_privilege_is_extra_though_it_covers_the_schema() -> None:
    state = database([PUBLIC], defaults=[DefaultAclEntry("owner", None, "TABLES", ROLE, "SELECT", False)])
    assert texts(state, "SELECT", phase=Phase.REVOKE) == [
        'ALTER DEFAULT PRIVILEGES FOR ROLE "owner" REVOKE SELECT ON TABLES FROM "ours"'
    ]


def test_owners_the_admin_may_not_act_for_are_named_and_fail_nothing() -> None:
    state = database(
        [schema("public", 1, ADMIN), database_object(ObjectKind.TABLE, 11, "public", ADMIN)],
        [
            Grant(ObjectKind.TABLE, 11, "SELECT", grantor=ADMIN),
            Grant(ObjectKind.SCHEMA, 1, "USAGE", grantor=ADMIN),
        ],
        creators=["stranger"],
        not_administered=frozenset({"stranger"}),
    )
    difference = database_difference(desired(["db"], ["SELECT"]), state, server())
    assert difference.problems == []
    (uncovered,) = difference.uncovered_owners
    assert f'GRANT "stranger" TO "{ADMIN}" WITH INHERIT TRUE;' in uncovered

    covered = replace(
        state,
        default_acl=type(state.default_acl).of(
            [DefaultAclEntry("stranger", "public", "TABLES", ROLE, "SELECT", False)]
        ),
    )
    difference = database_difference(desired(["db"], ["SELECT"]), covered, server())
    assert (difference.problems, difference.uncovered_owners) == ([], [])


def test_a_superusers_objects_need_a_grant_option_and_never_a_membership() -> None:
    state = database(
        [PUBLIC, database_object(ObjectKind.TABLE, 11, "public", "super")],
        not_administered=frozenset({"super"}),
    )
    picture = server(admin="clerk", superusers=frozenset({"super"}))
    ((reason, message),) = database_difference(desired(["db"], ["SELECT"]), state, picture).problems
    assert reason is PlanReason.INSUFFICIENT_PRIVILEGE
    assert message.endswith(
        'run: GRANT SELECT ON ALL TABLES IN SCHEMA "public" TO "clerk" WITH GRANT OPTION;'
    )

    granted = replace(state, grant_options={(ObjectKind.TABLE, "SELECT"): frozenset({11})})
    assert database_difference(desired(["db"], ["SELECT"]), granted, picture).problems == []


def test_the_owner_of_public_is_named_by_the_role_that_can_have_members() -> None:
    state = database(
        [schema("public", 1, "pg_database_owner")],
        owner="datdba",
        not_administered=frozenset({"pg_database_owner", "datdba"}),
    )
    ((_, message),) = database_difference(desired(["db"], ["SELECT"]), state, server(admin="clerk")).problems
    assert message.endswith('run: GRANT "datdba" TO "clerk" WITH INHERIT TRUE;')
    ((_, message),) = database_difference(
        desired(["db"], ["SELECT"]), state, server(admin="clerk", version=150000)
    ).problems
    assert message.endswith('run: GRANT "datdba" TO "clerk";')
    noinherit = server(admin="clerk", version=150000, admin_attributes=frozenset())
    ((_, message),) = database_difference(desired(["db"], ["SELECT"]), state, noinherit).problems
    assert message.endswith('run: GRANT "datdba" TO "clerk"; ALTER ROLE "clerk" INHERIT;')


def test_where_the_admin_is_no_owner_each_privilege_has_a_statement_of_its_own() -> None:
    table, other = TABLES[0], database_object(ObjectKind.TABLE, 12, "public", "other")
    both = {(ObjectKind.TABLE, name): frozenset({12}) for name in ("SELECT", "DELETE")}
    state = database([PUBLIC, table, other], not_administered=frozenset({"other"}), grant_options=both)
    assert [text for text in texts(state, "SELECT", "DELETE", phase=Phase.GRANT) if " ON ALL " in text] == [
        f'GRANT {privilege} ON ALL TABLES IN SCHEMA "public" TO "{ROLE}"'
        for privilege in ("DELETE", "SELECT")
    ]


def test_a_schema_that_the_admin_may_not_use_is_named_with_the_sql_unless_that_comes_with_its_usage() -> None:
    usage = [Grant(ObjectKind.SCHEMA, 1, "USAGE")]
    remedy = f'run: GRANT USAGE ON SCHEMA "public" TO "{ADMIN}";'
    for privileges, grants in ((["SELECT"], []), ([], [Grant(ObjectKind.TABLE, 11, "SELECT")])):
        state = database(OBJECTS, [*usage, *grants], closed_schemas={ADMIN: frozenset({"public"})})
        difference = database_difference(desired(["db"], privileges), state, server())
        ((reason, message),) = difference.problems
        assert (reason, message[-len(remedy) :]) == (PlanReason.INSUFFICIENT_PRIVILEGE, remedy)
        assert [s for s in difference.statements if s.phase is Phase.REVOKE] == []

    unused = database(
        OBJECTS, closed_schemas={ADMIN: frozenset({"public"})}, not_administered=frozenset({"owner"})
    )
    ((_, message),) = database_difference(desired(["db"], ["SELECT"]), unused, server()).problems
    assert "may not act for" in message


def test_a_grant_that_the_role_made_to_itself_goes_before_all_others() -> None:
    option = Grant(ObjectKind.TABLE, 11, "DELETE", grantable=True)
    state = database(OBJECTS, [option, Grant(ObjectKind.TABLE, 11, "DELETE", grantor=ROLE)])
    difference = database_difference(desired(), state, server())
    assert difference.problems == []
    assert [(s.phase, s.as_role) for s in sorted(difference.statements, key=lambda s: s.phase)] == [
        (Phase.REDUCE, ROLE),
        (Phase.REVOKE, None),
    ]


def test_who_may_not_name_an_object_is_lent_its_schema() -> None:
    grants = [Grant(ObjectKind.TABLE, 11, "DELETE", grantor="lender")]
    state = database(OBJECTS, grants, closed_schemas={"lender": frozenset({"public"})})
    (revoke,) = database_difference(desired(), state, server()).statements
    assert (revoke.as_role, revoke.lent_schemas) == ("lender", ("public",))

    ordinary = server(admin_is_superuser=False)
    ((reason, message),) = database_difference(desired(), state, ordinary).problems
    assert reason is PlanReason.INSUFFICIENT_PRIVILEGE
    assert message.endswith(f"run: {revoke.by_hand}")


def test_a_grantor_that_is_a_superuser_by_now_is_none_for_a_moment() -> None:
    state = database(OBJECTS, [Grant(ObjectKind.TABLE, 11, "DELETE", grantor="lender")])
    powerful = server(superusers=frozenset({ADMIN, "lender"}))
    difference = database_difference(desired(), state, powerful)
    assert difference.statements == []
    ((reason, message),) = difference.problems
    assert reason is PlanReason.INSUFFICIENT_PRIVILEGE
    steps = message.rpartition(" run: ")[2].split("; ")
    assert (steps[1], steps[-2]) == ('ALTER ROLE "lender" NOSUPERUSER', 'ALTER ROLE "lender" SUPERUSER')


def test_the_owner_is_named_where_the_server_would_take_the_admin_for_the_grantor() -> None:
    state = database(
        OBJECTS,
        [Grant(ObjectKind.TABLE, 11, "DELETE"), Grant(ObjectKind.TABLE, 12, "DELETE")],
        contested={ObjectKind.TABLE: frozenset({11})},
    )
    difference = database_difference(desired(), state, server())
    assert {s.as_role for s in difference.statements} == {None, "owner"}


def test_what_the_admin_may_not_revoke_comes_with_the_statement() -> None:
    state = database(
        OBJECTS,
        [Grant(ObjectKind.TABLE, 11, "DELETE", grantor="lender")],
        defaults=[DefaultAclEntry("lender", None, "TABLES", ROLE, "SELECT", False)],
        not_administered=frozenset({"lender"}),
        not_assumable=frozenset({"lender"}),
    )
    messages = [message for _, message in database_difference(desired(), state, server()).problems]
    assert messages[0].endswith(
        f'run: BEGIN; SET LOCAL ROLE "lender"; REVOKE DELETE ON TABLE "public"."table_11" FROM "{ROLE}"; '
        "SET LOCAL ROLE NONE; COMMIT;"
    )
    assert messages[1].endswith(
        'run: ALTER DEFAULT PRIVILEGES FOR ROLE "lender" REVOKE SELECT ON TABLES FROM "ours";'
    )


def test_defaults_that_the_role_set_itself_are_put_back_to_what_the_server_does_by_itself() -> None:
    state = database(
        [PUBLIC],
        defaults=[
            DefaultAclEntry(ROLE, None, "ROUTINES", "friend", "EXECUTE", False),
            DefaultAclEntry(ROLE, "public", "TABLES", ROLE, "SELECT", False),
        ],
    )
    mine = f'ALTER DEFAULT PRIVILEGES FOR ROLE "{ROLE}"'
    assert [s.text for s in restore_own_defaults(ROLE, state)] == [
        f'{mine} IN SCHEMA "public" REVOKE ALL ON TABLES FROM "{ROLE}"',
        f'{mine} REVOKE ALL ON ROUTINES FROM "friend"',
        f'{mine} GRANT ALL ON ROUTINES TO "{ROLE}"',
        f"{mine} GRANT ALL ON ROUTINES TO PUBLIC",
    ]


PRIVILEGES = {
    ObjectKind.TABLE: ("SELECT", "INSERT", "DELETE", "MAINTAIN"),
    ObjectKind.SEQUENCE: ("USAGE", "SELECT", "UPDATE"),
    ObjectKind.ROUTINE: ("EXECUTE",),
    ObjectKind.SCHEMA: ("USAGE", "CREATE"),
    ObjectKind.TYPE: ("USAGE",),
}
ROLES = ("owner", "second", ROLE, "lender")


@st.composite
def grants_on(draw: st.DrawFn, objects: list[DatabaseObject]) -> list[Grant]:
    grants = {}
    for _ in range(draw(st.integers(0, 12))):
        target = draw(st.sampled_from(objects))
        column = draw(st.sampled_from([None, None, "a"])) if target.kind is ObjectKind.TABLE else None
        grant = Grant(
            target.kind,
            target.oid,
            draw(st.sampled_from(PRIVILEGES[target.kind])),
            grantee=draw(st.sampled_from([ROLE, ROLE, "friend"])),
            grantor=draw(st.sampled_from([target.owner, "lender", ROLE])),
            grantable=draw(st.booleans()),
            column=column,
        )
        # An owner's own rights, and grants to oneself, are not what the snapshot hands on.
        if grant.grantee != grant.grantor and grant.grantee != target.owner:
            grants[grant._replace(grantable=False)] = grant
    return [*grants.values()]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[DatabaseObject], list[Grant], list[DefaultAclEntry], list[str]]:
    schemas = [schema("public", 1, draw(st.sampled_from(ROLES))), schema("far", 2)]
    kinds = [ObjectKind.TABLE, ObjectKind.SEQUENCE, ObjectKind.ROUTINE, ObjectKind.TYPE]
    objects = [
        database_object(draw(st.sampled_from(kinds)), 10 + n, draw(st.sampled_from(["public", "far"])), owner)
        for n, owner in enumerate(draw(st.lists(st.sampled_from(ROLES), max_size=8)))
    ]
    defaults = {
        (owner, place, plural, privilege): DefaultAclEntry(owner, place, plural, ROLE, privilege, grantable)
        for owner, place, (plural, privilege), grantable in draw(
            st.lists(
                st.tuples(
                    st.sampled_from(["owner", "second"]),
                    st.sampled_from([None, "public", "far"]),
                    st.sampled_from([("TABLES", "SELECT"), ("TABLES", "DELETE"), ("ROUTINES", "EXECUTE")]),
                    st.booleans(),
                ),
                max_size=4,
            )
        )
    }
    everything = [*schemas, *objects]
    scopes = draw(st.lists(st.sampled_from(["public", "far"]), unique=True))
    return everything, draw(grants_on(everything)), [*defaults.values()], scopes


@given(worlds(), st.sets(st.sampled_from(Privilege), min_size=1))
def test_after_a_plan_is_applied_nothing_is_left_to_do_and_nobody_elses_grants_have_changed(
    world: tuple[list[DatabaseObject], list[Grant], list[DefaultAclEntry], list[str]],
    privileges: set[Privilege],
) -> None:
    objects, grants, defaults, scopes = world
    role = desired([f"db.{name}" for name in scopes], privileges)
    ledger = Ledger(objects, set(grants), set(defaults))
    before = {grant for grant in ledger.grants if grant.grantee != ROLE}

    first = database_difference(
        role, database(objects, ledger.grants, ledger.defaults, schemas=scopes), server()
    )
    ledger.apply(first.statements)
    state = database(objects, ledger.grants, ledger.defaults, schemas=scopes)
    second = database_difference(role, state, server())

    assert second.statements == []
    assert sorted(second.problems) == sorted(first.problems)
    assert {grant for grant in ledger.grants if grant.grantee != ROLE} == before
    if not first.problems:
        wanted = object_privileges(privileges)
        for target in objects:
            place = target.name if target.kind is ObjectKind.SCHEMA else target.schema
            asked = wanted.get(target.kind, frozenset()) if place in scopes else frozenset()
            held = {g for g in ledger.grants if (g.kind, g.oid, g.grantee) == (target.kind, target.oid, ROLE)}
            if target.owner != ROLE:
                assert {grant.privilege for grant in held} == asked
                assert not any(grant.grantable or grant.column for grant in held)
        plurals = {
            ObjectKind.TABLE: "TABLES",
            ObjectKind.SEQUENCE: "SEQUENCES",
            ObjectKind.ROUTINE: "ROUTINES",
        }
        assert ledger.defaults == {
            DefaultAclEntry(owner, place.name, plural, ROLE, privilege, False)
            for place in state.schemas.values()
            for owner in future_owners(place, state, frozenset()) - {ROLE}
            for kind, plural in plurals.items()
            for privilege in wanted.get(kind, ())
        }


ROOMY = CrowdedAcl(2440 - ENTRIES_KEPT_FREE, 2440)
FULL = CrowdedAcl(2441 - ENTRIES_KEPT_FREE, 2440)


@pytest.mark.parametrize(
    ("acl", "held", "fits"),
    [(ROOMY, (), True), (FULL, (), False), (FULL, ("DELETE",), True), (FULL, ("SELECT",), True)],
    ids=["room for a turn", "less", "an entry to be changed", "nothing to do"],
)
def test_a_full_acl_takes_no_further_grantee(acl: CrowdedAcl, held: tuple[str, ...], fits: bool) -> None:
    grants = [Grant(ObjectKind.TABLE, 11, privilege) for privilege in held]
    state = database(OBJECTS, grants, crowded={11: acl, 99: FULL})
    problems = database_difference(desired(["db"], ["SELECT"]), state, server()).problems
    assert [reason for reason, _ in problems] == ([] if fits else [PlanReason.APPLY_FAILED])
    told = f'table "public"."table_11" in database "db" has {FULL.entries} grantees'
    assert all(told in text for _, text in problems)


@pytest.mark.parametrize("held", [True, False])
def test_default_privileges_take_no_more_grantees_than_a_new_table(held: bool) -> None:
    entry = DefaultAclEntry("owner", "public", "TABLES", ROLE, "DELETE", grantable=False)
    crowded = {("owner", "public", "TABLES"): FULL}
    state = database(OBJECTS, defaults=[entry] if held else [], crowded_defaults=crowded)
    problems = database_difference(desired(["db"], ["SELECT"]), state, server()).problems
    assert [reason for reason, _ in problems] == ([] if held else [PlanReason.APPLY_FAILED])


SCHEMAS = 100
TABLES_IN_ALL = 10_000
LONGEST_NAME = '"' * 58
"""The longest that a name becomes in SQL; five digits are added."""
STATEMENT_BYTES = 128 * 1024


def big_database() -> list[DatabaseObject]:
    names = [f"{LONGEST_NAME}{number:05}" for number in range(TABLES_IN_ALL)]
    schemas = [schema(name, number + 1) for number, name in enumerate(names[:SCHEMAS])]
    tables = [
        DatabaseObject(TABLES_IN_ALL + number, ObjectKind.TABLE, names[number % SCHEMAS], name, "owner")
        for number, name in enumerate(names)
    ]
    return [*schemas, *tables]


@pytest.mark.parametrize("scopes", [1, SCHEMAS])
@pytest.mark.parametrize("divisor", [2, 3])
def test_a_big_database_takes_a_bounded_number_of_bounded_statements(scopes: int, divisor: int) -> None:
    objects = big_database()
    names = [target.name for target in objects[:scopes]]
    privileges = [privilege.value for privilege in Privilege][:7]
    by_hand = [
        Grant(ObjectKind.TABLE, target.oid, privilege)
        for target in objects[SCHEMAS:]
        for number, privilege in enumerate(privileges)
        if (target.oid + number) % divisor
    ]
    state = database(objects, by_hand, schemas=names)
    quoted = [name.replace('"', '""') for name in names]
    asked = desired([f'db."{name}"' for name in quoted], privileges[:2])
    statements = database_difference(asked, state, server()).statements
    per_privilege = max(SCHEMAS, TABLES_IN_ALL // OBJECTS_PER_STATEMENT)
    assert len(statements) <= len(privileges) * per_privilege + 3 * SCHEMAS
    longest = max(statements, key=lambda statement: len(statement.text))
    roles = [f"{LONGEST_NAME}{number:05}" for number in range(GRANTEES_PER_STATEMENT + 1)]
    merged = merge(replace(longest, grantees=(role,)) for role in roles)
    assert len(merged) == 2
    assert max(len(statement.text.encode()) for statement in merged) <= STATEMENT_BYTES

"""The role itself: its existence, attributes, ownership comment, memberships, and the danger of a source role."""

from collections.abc import Iterable, Iterator
from typing import LiteralString

from psycopg import sql

from hoop_operator.errors import PlanReason
from hoop_operator.planner.adoption import role_to_take_over
from hoop_operator.planner.difference import Difference
from hoop_operator.planner.model import (
    COMMENT_PREFIX,
    INHERIT_PER_MEMBERSHIP,
    DesiredRole,
    Membership,
    Role,
    Server,
)
from hoop_operator.planner.statements import Change, ChangeKind, Phase, Statement, grantee_list, render

DANGEROUS_ROLES = frozenset(
    {
        "pg_execute_server_program",
        "pg_read_server_files",
        "pg_write_server_files",
        "pg_write_all_data",
        "pg_maintain",
        "pg_monitor",
        "pg_signal_backend",
        "pg_checkpoint",
        "pg_create_subscription",
        "rds_superuser",
        "rds_replication",
        "rds_iam",
        "rds_password",
        "cloudsqlsuperuser",
        "azure_pg_admin",
    }
)
"""Roles whose members reach beyond the data: the server's files and processes, other sessions, or everybody's rows."""


def role_difference(desired: DesiredRole, server: Server) -> Difference:
    """What it takes to have the role exist with the right comment, attributes and memberships."""
    # A membership in the admin would have to go before the admin can be given the role.
    difference = _memberships(desired, server)
    role = server.roles.get(desired.name)
    if role is None:
        difference.statements += _create(desired)
    else:
        statements = [*restored_comment(desired, role), *_attributes(role)]
        adopted = role_to_take_over(desired, server) is not None
        problem = alteration_problem(role, server, reset_attributes=True, adopted=adopted)
        if statements and problem:
            difference.problems.append(problem)
        else:
            difference.statements += statements
    return difference


def alteration_problem(
    role: Role, server: Server, *, reset_attributes: bool = False, adopted: bool = False
) -> tuple[PlanReason, str] | None:
    """Why the admin may not alter an existing role, its comment or its password, nor drop it; None where it may.

    This is the one place that knows what CREATEROLE reaches (manual, ALTER ROLE; source, `AlterRole`): before version
    16 everything but superusers, replication roles and the attribute BYPASSRLS; since then the roles on which the
    admin has the ADMIN option, and of their attributes those that it has itself.

    Parameters
    ----------
    role
        A role of the server.
    server
        The server, and who its admin is.
    reset_attributes
        Whether the attributes that the role should not have are to be taken away, too.
    adopted
        Whether the role is somebody else's as yet: the admin is to administer it and gets no rights of it.
    """
    if server.admin_is_superuser:
        return None
    before_16 = server.version < INHERIT_PER_MEMBERSHIP
    own = server.admin_attributes
    out_of_reach: list[tuple[LiteralString, bool]] = [
        ("NOSUPERUSER", role.superuser),
        ("NOCREATEDB", role.createdb and reset_attributes and not before_16 and "CREATEDB" not in own),
        (
            "NOREPLICATION",
            role.replication and (before_16 or (reset_attributes and "REPLICATION" not in own)),
        ),
        ("NOBYPASSRLS", role.bypassrls and reset_attributes and (before_16 or "BYPASSRLS" not in own)),
    ]
    remedy = [statement.by_hand for statement in _alteration(role, out_of_reach)]
    if not before_16 and not role.admin_option:
        remedy.append(_grant_admin_option(role.name, server, alone=adopted))
    if not remedy:
        return None
    return (
        PlanReason.INSUFFICIENT_PRIVILEGE,
        f'the admin "{server.admin}" may not alter role "{role.name}"; an administrator has to run: '
        f"{' '.join(remedy)}",
    )


def _grant_admin_option(role: str, server: Server, *, alone: bool = False) -> str:
    return render(
        "GRANT {} TO {} WITH ADMIN OPTION{};",
        sql.Identifier(role),
        sql.Identifier(server.admin),
        sql.SQL(", INHERIT FALSE, SET FALSE" if alone else ""),
    )


def source_role_problems(desired: DesiredRole, server: Server) -> Iterator[tuple[PlanReason, str]]:
    """What speaks against an external plan's source role."""
    source = desired.source_role
    if source is None:
        return
    if source == desired.name:
        yield PlanReason.INVALID_SPEC, f'spec.sourceRole "{source}" is the plan\'s own role; name another one'
        return
    if source == "pg_database_owner":
        yield (
            PlanReason.INVALID_SPEC,
            'spec.sourceRole "pg_database_owner" cannot have members; name the owner of the database, or another role',
        )
        return
    if source not in server.roles:
        yield (
            PlanReason.SOURCE_ROLE_NOT_FOUND,
            f'source role "{source}" does not exist on the server; create it, or correct spec.sourceRole '
            f"(upper and lower case matter)",
        )
        return
    if desired.name in reachable_roles(source, server):
        yield (
            PlanReason.INVALID_SPEC,
            f'spec.sourceRole "{source}" is itself a member of the plan\'s role {desired.name}; name another one, or '
            f"revoke that membership",
        )
    if source not in desired.dangerous_source_roles_allowed and (
        dangers := dangers_of(source, desired.name, server)
    ):
        yield (
            PlanReason.DANGEROUS_SOURCE_ROLE,
            f'source role "{source}" is dangerous: {"; ".join(dangers)}. Choose a lesser role, or have the owner of '
            f"the HoopResource list it by name in spec.guardrails.sourceRoles",
        )
    held = server.memberships.of_member.get(desired.name, ())
    if not server.roles[source].admin_may_grant and not _inherits(source, held):
        remedy = (
            _membership_by_hand(desired, source, server)
            if server.roles[source].superuser
            else _grant_admin_option(source, server)
        )
        yield (
            PlanReason.INSUFFICIENT_PRIVILEGE,
            f'the admin "{server.admin}" may not grant membership in "{source}"; an administrator has to run: '
            f"{remedy}",
        )


def _membership_by_hand(desired: DesiredRole, source: str, server: Server) -> str:
    """The SQL that gives a membership which only a superuser may give, after the role itself where there is none yet.

    That role is ours by its comment, and the admin, who did not create it, is to be able to alter it.
    """
    commands: list[str] = []
    if desired.name not in server.roles:
        commands += [
            render("CREATE ROLE {};", sql.Identifier(desired.name)),
            _comment_statement(desired).by_hand,
        ]
        if server.version >= INHERIT_PER_MEMBERSHIP:
            commands.append(_grant_admin_option(desired.name, server))
    return " ".join([*commands, _grant_source(desired, source, server).by_hand])


def dangers_of(source: str, member: str, server: Server) -> list[str]:
    """In words, why a role must not be handed out without an explicit word: by itself or by what can be reached.

    INHERIT, SET and ADMIN count alike: each is a way to the other role's power (manual, "Role Membership").
    """
    dangers = []
    for name in sorted(reachable_roles(source, server)):
        role = server.roles[name]
        traits = [
            trait
            for trait, present in (
                ("is a superuser", role.superuser),
                ("has CREATEROLE", role.createrole),
                ("has CREATEDB", role.createdb),
                ("has BYPASSRLS", role.bypassrls),
                ("has REPLICATION", role.replication),
                ("gives access beyond the data", name in DANGEROUS_ROLES),
                ("is the admin itself", name == server.admin),
                (
                    "belongs to a plan",
                    name != member and role.comment is not None and role.comment.startswith(COMMENT_PREFIX),
                ),
            )
            if present
        ]
        if traits:
            way = "it" if name == source else f'"{name}", which it reaches,'
            dangers.append(f"{way} {' and '.join(traits)}")
    return dangers


def reachable_roles(source: str, server: Server) -> frozenset[str]:
    """`source` and all roles of which it is a member at any depth."""
    reached: set[str] = set()
    pending = [source]
    while pending:
        name = pending.pop()
        if name in reached or name not in server.roles:
            continue
        reached.add(name)
        pending += [membership.role for membership in server.memberships.of_member.get(name, ())]
    return frozenset(reached)


def foreign_memberships(desired: DesiredRole, server: Server) -> list[Membership]:
    """Memberships in our role that somebody else made.

    The creator of a role is made its member by the server itself from version 16 on: that is not foreign.
    """
    return [
        membership
        for membership in server.memberships.in_role.get(desired.name, ())
        if membership.member != server.admin
    ]


def _create(desired: DesiredRole) -> Iterator[Statement]:
    head = render("CREATE ROLE {} LOGIN INHERIT PASSWORD", sql.Identifier(desired.name))
    yield Statement(Phase.ROLE, None, head, verifier_of=desired.name, change=Change(ChangeKind.ROLE))
    yield _comment_statement(desired)


def restored_comment(desired: DesiredRole, role: Role) -> Iterator[Statement]:
    """Write the ownership comment anew where it was lost."""
    if role.comment != desired.identity.comment:
        yield _comment_statement(desired)


def _comment_statement(desired: DesiredRole) -> Statement:
    head = render(
        "COMMENT ON ROLE {} IS {}", sql.Identifier(desired.name), sql.Literal(desired.identity.comment)
    )
    return Statement(Phase.ROLE, None, head, change=Change(ChangeKind.COMMENT))


def _attributes(role: Role) -> Iterator[Statement]:
    """Only what differs is named: a plain CREATEROLE admin may not even mention some attributes."""
    yield from _alteration(
        role,
        [
            ("NOSUPERUSER", role.superuser),
            ("NOCREATEDB", role.createdb),
            ("NOCREATEROLE", role.createrole),
            ("NOREPLICATION", role.replication),
            ("NOBYPASSRLS", role.bypassrls),
        ],
        Phase.REDUCE,
    )
    yield from _alteration(
        role,
        [
            ("INHERIT", not role.inherit),
            ("LOGIN", not role.login),
            ("CONNECTION LIMIT -1", role.connection_limit != -1),
            ("VALID UNTIL 'infinity'", role.expires),
        ],
    )


def _alteration(
    role: Role, options: Iterable[tuple[LiteralString, bool]], phase: Phase = Phase.ALTER
) -> Iterator[Statement]:
    """ALTER ROLE with those of the options that are needed, if any is."""
    needed = [option for option, is_needed in options if is_needed]
    if needed:
        head = render("ALTER ROLE {} {}", sql.Identifier(role.name), sql.SQL(" ").join(map(sql.SQL, needed)))
        yield Statement(phase, None, head, change=Change(ChangeKind.ATTRIBUTE, ", ".join(needed)))


def password_statement(name: str) -> Statement:
    """Set a role's password, by its verifier."""
    return Statement(
        Phase.ALTER, None, render("ALTER ROLE {} PASSWORD", sql.Identifier(name)), verifier_of=name
    )


def _memberships(desired: DesiredRole, server: Server) -> Difference:
    difference = Difference()
    held = server.memberships.of_member.get(desired.name, ())
    for membership in held:
        wanted = membership.role == desired.source_role
        if wanted and not membership.admin:
            continue
        members = members_from_its_hand(membership, server)
        if members:
            difference.problems.append(dependent_members(membership, members))
        revoke = revoke_membership(membership, server, option_only=wanted)
        if membership.admin_may_revoke and not members:
            difference.statements.append(revoke)
        elif not membership.admin_may_revoke:
            difference.problems.append(
                (
                    PlanReason.INSUFFICIENT_PRIVILEGE,
                    f'the admin "{server.admin}" may not revoke the membership in "{membership.role}" that '
                    f'"{membership.grantor}" granted; an administrator has to run: {revoke.by_hand}',
                )
            )
    if desired.source_role is not None and not _inherits(desired.source_role, held):
        difference.statements.append(_grant_source(desired, desired.source_role, server))
    return difference


def _grant_source(desired: DesiredRole, source: str, server: Server) -> Statement:
    options = sql.SQL(" WITH INHERIT TRUE" if server.version >= INHERIT_PER_MEMBERSHIP else "")
    head = render("GRANT {} TO {}{}", sql.Identifier(source), sql.Identifier(desired.name), options)
    return Statement(
        Phase.GRANT, None, head, change=Change(ChangeKind.MEMBERSHIP, f'membership in "{source}"')
    )


def members_from_its_hand(membership: Membership, server: Server) -> list[str]:
    """Whom the member made members in turn, by the ADMIN option of this membership.

    Before version 16 a membership did not depend on the one of its grantor.
    """
    if not membership.admin or server.version < INHERIT_PER_MEMBERSHIP:
        return []
    given = server.memberships.by_grantor.get(membership.member, ())
    return sorted(other.member for other in given if other.role == membership.role)


def dependent_members(membership: Membership, members: list[str]) -> tuple[PlanReason, str]:
    """The problem that others would lose their membership with this one."""
    remedy = render(
        "REVOKE {} FROM {} GRANTED BY {} CASCADE;",
        sql.Identifier(membership.role),
        sql.SQL(", ").join(map(sql.Identifier, members)),
        sql.Identifier(membership.member),
    )
    return (
        PlanReason.DEPENDENT_GRANTS,
        f'membership in "{membership.role}" was passed on by {membership.member} to {grantee_list(members)}, who would '
        f"lose it; nothing is cascaded: to let it go, run: {remedy}",
    )


def _inherits(source: str, held: Iterable[Membership]) -> bool:
    return any(membership.role == source and membership.inherit for membership in held)


def revoke_membership(membership: Membership, server: Server, *, option_only: bool = False) -> Statement:
    """Take back a membership, or its ADMIN option alone, as the role that granted it."""
    head = render(
        "REVOKE {}{} FROM {}{}",
        sql.SQL("ADMIN OPTION FOR " if option_only else ""),
        sql.Identifier(membership.role),
        sql.Identifier(membership.member),
        _granted_by(membership, server),
    )
    what = f'{"ADMIN OPTION of the " if option_only else ""}membership in "{membership.role}"'
    return Statement(Phase.REDUCE, None, head, change=Change(ChangeKind.MEMBERSHIP, what))


def expel_member(membership: Membership, server: Server) -> Statement:
    """Take back a membership in a role that is to be dropped, with those in it that hang on this one."""
    head = render(
        "REVOKE {} FROM {}{} CASCADE",
        sql.Identifier(membership.role),
        sql.Identifier(membership.member),
        _granted_by(membership, server),
    )
    return Statement(Phase.REVOKE, None, head)


def _granted_by(membership: Membership, server: Server) -> sql.Composable:
    if server.version < INHERIT_PER_MEMBERSHIP:
        return sql.SQL("")
    return sql.SQL(" GRANTED BY {}").format(sql.Identifier(membership.grantor))

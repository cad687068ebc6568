"""What a plan asks for, or why it may not: everything that can be told without asking the server."""

import fnmatch
from collections.abc import Mapping

from hoop_operator.crd import Guardrails, PlanType
from hoop_operator.credentials.connection import Connection
from hoop_operator.credentials.output import output_data, render_template
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.naming import role_name
from hoop_operator.planner.model import Adoption, DesiredRole, Identity
from hoop_operator.planner.scopes import Scope, parse_scope, scope_matches
from hoop_operator.reconcile.adoption import adoption_of
from hoop_operator.reconcile.objects import Plan, Resource
from hoop_operator.reconcile.rotation import interval_of


def desired_role(plan: Plan, resource: Resource, instance: str) -> DesiredRole:
    """Derive the role from a plan and its resource.

    Raises
    ------
    PlanFailure
        `InvalidSpec`, `UnsupportedResource` or `GuardrailViolation`; the message lists all that is wrong.
    """
    spec = plan.spec
    if not resource.is_postgres:
        raise PlanFailure(
            PlanReason.UNSUPPORTED_RESOURCE,
            f"HoopResource {resource.key.name} is {resource.spec.type}/{resource.spec.subtype}; plans are run on "
            f"database/postgres only",
        )
    problems: list[str] = []
    name = ""
    try:
        name = role_name(resource.api_name, spec.role)
    except ValueError as error:
        problems.append(f"spec.role: {error}")
    scopes: list[Scope] = []
    if spec.type == PlanType.MANAGED:
        for text in spec.scopes:
            try:
                scopes.append(parse_scope(text))
            except ValueError as error:
                problems.append(f"spec.scopes: {error}")
        if not spec.scopes:
            problems.append(
                "spec.scopes: needed for type managed; list databases as database or database.schema"
            )
        if not spec.privileges:
            problems.append("spec.privileges: needed for type managed")
    elif not spec.source_role:
        problems.append(
            "spec.sourceRole: needed for type external; name the PostgreSQL role to be a member of"
        )
    elif "\0" in spec.source_role:
        # The driver refuses it, and with it the one query that reads the roles of all plans at hand.
        problems.append("spec.sourceRole: the name holds a NUL character; remove it")
    guardrails = resource.spec.guardrails
    adoption: Adoption | None = None
    try:
        adoption = adoption_of(plan, instance)
    except ValueError as error:
        problems.append(str(error))
    try:
        interval_of(plan)
    except ValueError as error:
        problems.append(f"spec.rotationInterval: {error}")
    violations = _violations(plan, scopes, guardrails)
    if problems or violations:
        reason = PlanReason.INVALID_SPEC if problems else PlanReason.GUARDRAIL_VIOLATION
        raise PlanFailure(reason, "; ".join(problems + violations))
    identity = Identity(instance, plan.key.namespace, plan.key.name)
    if spec.type == PlanType.EXTERNAL:
        listed = guardrails.source_roles if guardrails else None
        return DesiredRole(
            name,
            identity,
            source_role=spec.source_role,
            dangerous_source_roles_allowed=frozenset(listed or ()),
            adoption=adoption,
        )
    return DesiredRole(
        name,
        identity,
        scopes=frozenset(scopes),
        privileges=frozenset(spec.privileges),
        adoption=adoption,
    )


def _violations(plan: Plan, scopes: list[Scope], guardrails: Guardrails | None) -> list[str]:
    """What of a plan is beyond the guardrails of its resource; an absent one allows anything, an empty one nothing."""
    if guardrails is None:
        return []
    violations: list[str] = []
    if plan.spec.type == PlanType.EXTERNAL:
        listed = guardrails.source_roles
        source = plan.spec.source_role or ""
        if listed is not None and not any(
            source == glob or fnmatch.fnmatchcase(source, glob) for glob in listed
        ):
            violations.append(
                f'spec.sourceRole "{source}" is not allowed by the resource\'s spec.guardrails.sourceRoles'
            )
        return violations
    if guardrails.privileges is not None:
        excess = sorted(set(plan.spec.privileges) - set(guardrails.privileges))
        if excess:
            violations.append(
                f"spec.privileges {', '.join(excess)} are not allowed by the resource's spec.guardrails.privileges"
            )
    if guardrails.scopes is not None:
        allowed = guardrails.scopes
        beyond = [
            f"{scope.database}.{scope.schema}"
            for scope in scopes
            if not any(scope_matches(glob, scope) for glob in allowed)
        ]
        if beyond:
            violations.append(
                f"spec.scopes {', '.join(beyond)} are not allowed by the resource's spec.guardrails.scopes"
            )
    return violations


def first_database(plan: Plan, connection: Connection) -> str:
    """The database that the plan's URIs lead to."""
    if plan.spec.type == PlanType.EXTERNAL:
        return connection.database
    return parse_scope(plan.spec.scopes[0]).database


def secret_contents(
    plan: Plan, resource: Resource, connection: Connection, role: str, password: str
) -> Mapping[str, str]:
    """All keys that a plan's Secret is to have.

    Raises
    ------
    PlanFailure
        `InvalidSpec`: `spec.secretTemplate.data` cannot be filled in.
    """
    advertise = resource.spec.advertise
    database = first_database(plan, connection)
    managed = plan.spec.type == PlanType.MANAGED
    databases = (
        dict.fromkeys(parse_scope(scope).database for scope in plan.spec.scopes) if managed else [database]
    )
    data = output_data(
        host=(advertise and advertise.host) or connection.host,
        port=(advertise and advertise.port) or connection.port,
        username=role,
        password=password,
        database=database,
        databases=list(databases),
        sslmode=(advertise and advertise.ssl_mode) or connection.sslmode,
        ca_certificate=connection.ca_certificate,
    )
    template = plan.spec.secret_template
    if template is None or not template.data:
        return data
    try:
        return data | render_template(template.data, data)
    except ValueError as error:
        raise PlanFailure(PlanReason.INVALID_SPEC, str(error)) from None

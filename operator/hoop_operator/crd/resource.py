"""HoopResource: something that people connect to, registered with the credentials of its administrator."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from hoop_operator.crd.common import (
    ATOMIC,
    LOWER_CASE_LABEL,
    SET,
    Approval,
    Conditions,
    DnsLabel,
    DnsSubdomain,
    KubernetesModel,
    LabelValue,
    Message,
    NonNegative,
    Outcome,
    Privilege,
    ReportedName,
    Scope,
    Timestamp,
    checked,
    clip,
    immutable,
    keyed_by,
    no_key,
    rule,
)
from hoop_operator.crd.schema import CustomResource, PrinterColumn

_ENV_NAME = "[A-Za-z_][A-Za-z0-9_]*"

DATABASE_SUBTYPES = ("postgres", "mysql", "mongodb", "mssql", "oracledb")

_SUBTYPE_FITS_TYPE = (
    rule(
        "!has(self.type) || self.type != 'database' || !has(self.subtype)"
        f" || self.subtype in {list(DATABASE_SUBTYPES)}",
        f"subtype of a database is one of {', '.join(DATABASE_SUBTYPES)}",
        field="subtype",
    ),
    rule(
        f"!has(self.subtype) || self.subtype.matches('{LOWER_CASE_LABEL}')",
        "subtype is a lower-case label such as tcp, ssh, httpproxy, dynamodb or cloudwatch",
        field="subtype",
    ),
)

AgentId = Annotated[
    str,
    Field(
        max_length=36,
        json_schema_extra=checked(
            rule(
                "self.matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$')",
                "agentId is a UUID such as 6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b11",
            )
        ),
    ),
]

EnvValue = Annotated[str, Field(max_length=65536)]

EnvVars = Annotated[
    dict[str, EnvValue],
    Field(
        max_length=64,
        repr=False,
        json_schema_extra=checked(
            no_key(
                f"!k.matches('^(envvar:|filesystem:)?{_ENV_NAME}$')",
                "a key is NAME, envvar:NAME or filesystem:NAME, where NAME has letters, digits and '_' only"
                " and does not begin with a digit",
            ),
            no_key(
                "k.startsWith('envvar:')"
                " && (k.substring(7) in self || 'filesystem:' + k.substring(7) in self)"
                " || k.startsWith('filesystem:') && k.substring(11) in self",
                "a NAME may stand here once, whatever its prefix: remove one of the two keys",
            ),
        ),
    ),
]


class ResourceType(StrEnum):
    """Main type of what people connect to."""

    DATABASE = "database"
    APPLICATION = "application"
    CUSTOM = "custom"


class LocalRef(KubernetesModel):
    """A Secret or ConfigMap of the same namespace."""

    name: DnsSubdomain
    """Its name."""


class EnvFrom(KubernetesModel):
    """A whole Secret or ConfigMap, every key of it one variable."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            rule(
                "has(self.secretRef) != has(self.configMapRef)",
                "an entry has exactly one of secretRef and configMapRef: make two sources two entries",
            )
        )
    )

    secret_ref: LocalRef | None = None
    """Secret of the same namespace whose keys become variables. Secrets that other tools write can be named
    as they are: spellings such as `host`, `PGHOST`, `username`, `dbname`, `uri` and `ca.crt` are
    understood."""

    config_map_ref: LocalRef | None = None
    """ConfigMap of the same namespace whose keys become variables."""

    prefix: Annotated[
        str,
        Field(
            max_length=63,
            json_schema_extra=checked(
                rule(
                    f"self.matches('^({_ENV_NAME})?$')",
                    "prefix has letters, digits and '_' only and does not begin with a digit",
                )
            ),
        ),
    ] = ""
    """Put before every key, as in the `envFrom` of a Pod. Default: nothing."""


Host = Annotated[
    str,
    Field(
        max_length=253,
        json_schema_extra=checked(
            rule(
                "self.matches('^[A-Za-z0-9:]([-A-Za-z0-9._:]*[A-Za-z0-9:])?$')",
                "advertise.host is one host name or IP address, without scheme, path or brackets",
            )
        ),
    ),
]


class Advertise(KubernetesModel):
    """The endpoint that applications are told, where it is not the one that the operator itself uses."""

    host: Host | None = None
    """Host name or IP address, such as that of a connection pooler. Default: HOST of the credentials."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """TCP port. Default: PORT of the credentials."""

    ssl_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = None
    """libpq's `sslmode` for applications. Default: SSLMODE of the credentials."""


class ResourceRole(KubernetesModel):
    """A connection that belongs to the resource; its variables are written into a Secret of its own."""

    model_config = ConfigDict(json_schema_extra=checked(*_SUBTYPE_FITS_TYPE))

    name: DnsLabel
    """Name, unique within the resource. The Secret is called `<resource>-<name>-connection`."""

    type: ResourceType | None = None
    """Main type of the connection. Default: the resource's."""

    subtype: Annotated[str, Field(max_length=63)] | None = None
    """Subtype of the connection. Default: the resource's."""

    command: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=64)] = ()
    """Program and arguments that open the connection, such as `["psql", "-A"]`. Default: the subtype's
    own."""

    agent_id: AgentId | None = None
    """UUID of the agent that serves the connection. Default: the resource's."""

    secret: EnvVars = Field(default_factory=dict, repr=False)
    """Variables of the connection, in the syntax of the resource's `envVars`. Nothing is inherited from
    there. These win over `secretFrom`."""

    secret_from: Annotated[tuple[EnvFrom, ...], Field(max_length=4, json_schema_extra=ATOMIC)] = ()
    """Secrets and ConfigMaps of which every key is a variable of the connection, each as a whole; a later one
    wins over an earlier."""


class LabelSelectorRequirement(KubernetesModel):
    """A demand on one label of a namespace."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            rule(
                "self.operator in ['Exists', 'DoesNotExist'] || has(self.values) && size(self.values) > 0",
                "values is needed with the operators In and NotIn: list at least one",
                field="values",
                missing=True,
            ),
            rule(
                "self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0",
                "values does not go with the operators Exists and DoesNotExist: remove it",
                field="values",
            ),
        )
    )

    key: Annotated[str, Field(min_length=1, max_length=317)]
    """Key of the label, such as `kubernetes.io/metadata.name`."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is compared: In, NotIn, Exists or DoesNotExist."""

    values: Annotated[tuple[LabelValue, ...], Field(max_length=64)] = ()
    """Values to compare with, for In and NotIn."""


class LabelSelector(KubernetesModel):
    """Namespaces by their labels; all demands must be met."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels that a namespace must have, such as `team: payments`."""

    match_expressions: Annotated[
        tuple[LabelSelectorRequirement, ...],
        Field(max_length=32, json_schema_extra=ATOMIC),
    ] = ()
    """Further demands on its labels."""


class NamespacesFrom(StrEnum):
    """Which namespaces are meant."""

    SAME = "Same"
    ALL = "All"
    SELECTOR = "Selector"


class AllowedNamespaces(KubernetesModel):
    """Namespaces whose plans may reference the resource."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            rule(
                "!has(self.from) || self.from != 'Selector' || (has(self.selector)"
                " && (has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0"
                " || has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0))",
                "selector is needed with from: Selector: give it matchLabels or matchExpressions,"
                " or write from: All to let every namespace in",
                field="selector",
                missing=True,
            ),
            rule(
                "!has(self.selector) || (has(self.from) && self.from == 'Selector')",
                "selector has a meaning with from: Selector only: add that, or remove the selector",
                field="selector",
            ),
        )
    )

    from_: NamespacesFrom = Field(default=NamespacesFrom.SAME, alias="from")
    """Same: the resource's own namespace only (default). All: every namespace. Selector: those that
    `selector` meets, and its own."""

    selector: LabelSelector | None = None
    """Which namespaces, with `from: Selector`."""


SourceRoleGlob = Annotated[str, Field(min_length=1, max_length=63)]
AllowedPrivileges = Annotated[tuple[Privilege, ...], Field(max_length=len(Privilege), json_schema_extra=SET)]
AllowedScopes = Annotated[tuple[Scope, ...], Field(max_length=128, json_schema_extra=SET)]
AllowedSourceRoles = Annotated[tuple[SourceRoleGlob, ...], Field(max_length=128, json_schema_extra=SET)]


class Guardrails(KubernetesModel):
    """The most that any plan may ask for. An absent list allows anything, an empty one nothing."""

    privileges: AllowedPrivileges | None = None
    """Privileges that managed plans may ask for."""

    scopes: AllowedScopes | None = None
    """Databases and schemas that managed plans may name, as globs: `shop`, `shop.reporting`, `shop.*`,
    `team_*.*`; no schema means `public`."""

    source_roles: AllowedSourceRoles | None = None
    """Source roles that external plans may name, as globs. A dangerous one (superuser, CREATEROLE, file
    access and the like) is allowed by its literal name only."""

    approval: Approval | None = None
    """Manual: every plan waits for approval, whatever it says itself. Default: each plan decides."""


class HoopResourceSpec(KubernetesModel):
    """What people connect to, and the administrator's credentials for it."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            *_SUBTYPE_FITS_TYPE,
            rule(
                "has(self.envVars) && size(self.envVars) > 0"
                " || has(self.envVarsFrom) && size(self.envVarsFrom) > 0",
                "envVars or envVarsFrom is needed: name the Secret that holds the credentials in"
                " envVarsFrom[].secretRef.name",
                field="envVarsFrom",
                missing=True,
            ),
            rule(
                "has(self.resourceName) == has(oldSelf.resourceName)"
                " && (!has(self.resourceName) || self.resourceName == oldSelf.resourceName)",
                "resourceName cannot be changed, added or removed, role names derive from it:"
                " delete the object and create it anew",
                field="resourceName",
            ),
        )
    )

    type: Annotated[ResourceType, Field(json_schema_extra=checked(immutable("type")))]
    """Main type: database, application or custom. Immutable."""

    subtype: Annotated[str, Field(max_length=63, json_schema_extra=checked(immutable("subtype")))]
    """What exactly it is. A database is one of postgres, mysql, mongodb, mssql, oracledb; anything else has a
    lower-case label such as tcp, ssh, httpproxy, dynamodb or cloudwatch. Role plans work on postgres.
    Immutable."""

    agent_id: AgentId | None = None
    """UUID of the operator instance that serves the resource. An instance with an agent id serves its own
    resources only, one without serves those that name none. Default: none."""

    resource_name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Name that the names of PostgreSQL roles derive from, such as `my-postgres`. Default: `metadata.name`.
    Immutable."""

    env_vars: EnvVars = Field(default_factory=dict, repr=False)
    """The connection as variables; for postgres HOST, PORT (5432), USER, PASS, DB (postgres), SSLMODE
    (prefer), SSLROOTCERT, SSLCERT, SSLKEY. A key is a bare NAME with a literal value, or `envvar:NAME` or
    `filesystem:NAME` with a value in base64, or with a reference `_aws:SECRET:KEY` or `_envjson:ENV:KEY` that
    the operator's settings allow. These win over `envVarsFrom`. A password is better kept in a Secret that
    `envVarsFrom` names."""

    env_vars_from: Annotated[tuple[EnvFrom, ...], Field(max_length=16, json_schema_extra=ATOMIC)] = ()
    """Secrets and ConfigMaps that hold the connection, each as a whole; a later one wins over an earlier."""

    advertise: Advertise | None = None
    """What applications are told instead of the administrator's endpoint, such as a pooler, a replica or an
    address in another network. Default: the endpoint of the credentials."""

    roles: Annotated[
        tuple[ResourceRole, ...],
        Field(
            max_length=32,
            json_schema_extra=keyed_by("name"),
        ),
    ] = ()
    """Connections that belong to the resource, each with a Secret of its own. A renamed one is another
    one."""

    allowed_namespaces: AllowedNamespaces = AllowedNamespaces()
    """Namespaces whose plans may reference the resource. Default: its own only."""

    guardrails: Guardrails | None = None
    """The most that any plan on the resource may ask for. Default: any privilege and scope, no dangerous
    source role."""


class ServerInfo(KubernetesModel):
    """What the PostgreSQL server said of itself at the last probe."""

    version: Annotated[str, Field(max_length=64), clip(64)]
    """Version of the server, such as 18.1."""

    system_identifier: Annotated[str, Field(max_length=20)]
    """Identity of the database cluster, the same on its replicas, another after it was set up anew."""

    is_superuser: bool
    """Whether the administrator is a superuser."""

    can_create_role: bool
    """Whether the administrator may create roles."""


class Connection(KubernetesModel):
    """A connection of the resource and where its variables are."""

    name: DnsLabel
    """Name of the entry in `spec.roles`."""

    secret_name: ReportedName
    """Secret of the same namespace that holds its variables."""


class HoopResourceStatus(KubernetesModel):
    """What the operator found at the last registration."""

    id: Annotated[str, Field(max_length=36)] | None = None
    """Identity of the resource: the object's uid."""

    sid: Annotated[str, Field(max_length=36)] | None = None
    """Identity of the last registration run."""

    status: Outcome | None = None
    """Outcome of that run: success or failed."""

    message: Message | None = None
    """What failed and what to do; empty on success."""

    created_at: Timestamp | None = None
    """When the resource was first registered."""

    updated_at: Timestamp | None = None
    """When the last run ended."""

    observed_generation: NonNegative | None = None
    """The `metadata.generation` that the last run looked at."""

    server: ServerInfo | None = None
    """The server behind the resource; postgres only."""

    connections: Annotated[
        tuple[Connection, ...],
        Field(
            max_length=32,
            json_schema_extra=keyed_by("name"),
        ),
    ] = ()
    """Secrets that hold the variables of `spec.roles`."""

    plans: NonNegative | None = None
    """How many plans use the resource."""

    conditions: Conditions = ()
    """Ready sums up. Reachable: the server answers (postgres only). CredentialsResolved: every variable was
    found. InUse: deletion waits for the plans that use the resource."""


HOOP_RESOURCE = CustomResource(
    kind="HoopResource",
    short_name="hres",
    description="Something that people connect to, first of all a PostgreSQL server, registered with the"
    " credentials of its administrator. A HoopRolePlan that references it says which login role should exist"
    " there.",
    spec=HoopResourceSpec,
    status=HoopResourceStatus,
    columns=(
        PrinterColumn("Type", ".spec.type"),
        PrinterColumn("Subtype", ".spec.subtype"),
        PrinterColumn("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn("Server version", ".status.server.version"),
        PrinterColumn("Plans", ".status.plans", type="integer"),
        PrinterColumn("Age", ".metadata.creationTimestamp", type="date"),
        PrinterColumn("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
    ),
    selectable_fields=(".spec.type", ".spec.subtype", ".spec.resourceName"),
    rules=(
        rule(
            "has(self.spec.resourceName) || size(self.metadata.name) <= 128",
            "spec.resourceName is needed where metadata.name is longer than 128 characters",
            field="spec.resourceName",
            missing=True,
        ),
        rule(
            "!has(self.spec.roles) || self.spec.roles.all(r, size(self.metadata.name) + size(r.name) <= 240)",
            "a role's name and metadata.name together exceed 240 characters, too long for the name of the"
            " Secret <metadata.name>-<role>-connection: shorten one of them",
            field="spec.roles",
        ),
    ),
)

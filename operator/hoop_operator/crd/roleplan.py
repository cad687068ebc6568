"""HoopRolePlan: a login role on a resource's server, and what it may do there."""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from hoop_operator.crd.common import (
    ATOMIC,
    SET,
    SUBDOMAIN_RULE,
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
    clip_stored,
    clip_stored_list,
    immutable,
    no_key,
    rule,
)
from hoop_operator.crd.schema import CustomResource, PrinterColumn

OUTPUT_SECRET_KEYS = (
    "type",
    "provider",
    "host",
    "port",
    "username",
    "user",
    "password",
    "database",
    "dbname",
    "databases",
    "sslmode",
    "ca.crt",
    "uri",
    "jdbc-uri",
    "pgpass",
)
"""Keys of the output Secret that are the operator's, `ca.crt` only where there is a CA; a template may quote them and
not redefine them."""

MAX_STATEMENTS = 256
"""How many statements of a plan are shown in its status; `count` tells how many there are."""

MAX_HISTORY = 10
"""How many runs a plan's status remembers."""

RotationInterval = Annotated[
    str,
    Field(
        max_length=32,
        json_schema_extra=checked(
            rule(
                "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && size(self) > 0"
                " && duration(self) >= duration('1m')",
                "rotationInterval is at least 1m, in whole hours, minutes and seconds such as 720h or 1h30m",
            )
        ),
    ),
]


class PlanType(StrEnum):
    """Who decides what the role may do."""

    MANAGED = "managed"
    EXTERNAL = "external"


class DeletionPolicy(StrEnum):
    """What becomes of the PostgreSQL role when the object goes."""

    DELETE = "Delete"
    RETAIN = "Retain"


class ResourceRef(KubernetesModel):
    """The HoopResource whose server the role lives on."""

    name: DnsSubdomain
    """Name of the HoopResource."""

    namespace: DnsLabel | None = None
    """Namespace of the HoopResource, which has to allow it in `spec.allowedNamespaces`. Default: the plan's
    own."""


_QUOTABLE_KEYS = "|".join(OUTPUT_SECRET_KEYS).replace(".", "[.]")


def _not_empty(field: str) -> JsonDict:
    return rule("size(self) > 0", f"{field} must not be empty: list at least one, or leave the field out")


_NO_HELM_RELEASE = rule(
    "!('owner' in self) || self['owner'] != 'helm'",
    "the label owner=helm is how Helm finds its releases, whatever the Secret's type: choose another value",
)


def _metadata_keys(field: str, *further: JsonDict) -> JsonDict:
    return checked(
        no_key(
            "!k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')",
            f"a key of {field} is a name of at most 63 characters such as team, or example.com/team",
        ),
        no_key(
            "k.matches('^([^/]*[.])?(kubernetes[.]io|k8s[.]io|argoproj[.]io|hoop[.]dev)/')",
            f"{field} of kubernetes.io, k8s.io, argoproj.io, hoop.dev and their subdomains belong to other"
            " programs: remove them",
        ),
        *further,
    )


AnnotationValue = Annotated[str, Field(max_length=4096)]

TemplateText = Annotated[
    str,
    Field(
        max_length=4096,
        json_schema_extra=checked(
            rule(
                f"self.matches('^([^$]|[$][$]|[$][{{]({_QUOTABLE_KEYS})[}}])*$')",
                "a dollar is written $$, and ${key} stands for one of the keys "
                + ", ".join(OUTPUT_SECRET_KEYS),
            )
        ),
    ),
]

SecretData = Annotated[
    dict[str, TemplateText],
    Field(
        max_length=32,
        repr=False,
        json_schema_extra=checked(
            no_key(
                "!k.matches('^[-._a-zA-Z0-9]{1,253}$')",
                "a key of secretTemplate.data has letters, digits, '-', '_' and '.' only, at most 253",
            ),
            no_key(
                f"k in {list(OUTPUT_SECRET_KEYS)}",
                "secretTemplate.data cannot redefine what the Secret has anyway: choose another key",
            ),
        ),
    ),
]


# Helm reads a revision by the Secret's name alone (its storage driver for Secrets, `Get`).
SecretName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        json_schema_extra=checked(
            SUBDOMAIN_RULE,
            rule(
                "!self.startsWith('sh.helm.release.')",
                "secretName must not begin with sh.helm.release., as the releases of Helm do: choose another name",
            ),
        ),
    ),
]

SecretType = Annotated[
    str,
    Field(
        max_length=253,
        json_schema_extra=checked(
            rule(
                "self in ['Opaque', 'kubernetes.io/basic-auth']"
                " || self.matches('^servicebinding[.]io/[-a-z0-9.]+$')",
                "secretTemplate.type is Opaque, kubernetes.io/basic-auth or begins with servicebinding.io/",
            )
        ),
    ),
]


class SecretTemplate(KubernetesModel):
    """What the output Secret has beyond, or other than, the usual."""

    type: SecretType | None = None
    """Type of the Secret: Opaque, kubernetes.io/basic-auth or one of servicebinding.io/. A changed type
    replaces the Secret at once, with the same password. Default: servicebinding.io/postgresql."""

    labels: Annotated[
        dict[str, LabelValue],
        Field(max_length=32, json_schema_extra=_metadata_keys("labels", _NO_HELM_RELEASE)),
    ] = Field(default_factory=dict)
    """Labels of the Secret. Those of kubernetes.io, k8s.io, argoproj.io, hoop.dev and their subdomains are
    refused, and owner=helm, which marks a release of Helm."""

    annotations: Annotated[
        dict[str, AnnotationValue], Field(max_length=32, json_schema_extra=_metadata_keys("annotations"))
    ] = Field(default_factory=dict)
    """Annotations of the Secret, with the same exceptions."""

    data: SecretData = Field(default_factory=dict, repr=False)
    """Further keys of the Secret. `${host}` stands for the value of the Secret's key `host`, and so for every
    key that the operator writes; `$$` is a dollar. An example: `DSN:
    postgresql+asyncpg://${user}@${host}:${port}`."""


class HoopRolePlanSpec(KubernetesModel):
    """Which login role should exist, and what it may do."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            rule(
                "self.type != 'managed' || has(self.scopes)",
                "scopes is needed for type managed: list databases as database or database.schema",
                field="scopes",
                missing=True,
            ),
            rule(
                "self.type != 'managed' || has(self.privileges)",
                "privileges is needed for type managed: list some of " + ", ".join(Privilege),
                field="privileges",
                missing=True,
            ),
            rule(
                "self.type != 'external' || has(self.sourceRole)",
                "sourceRole is needed for type external: name the PostgreSQL role to be a member of",
                field="sourceRole",
                missing=True,
            ),
        )
    )

    resource_ref: Annotated[ResourceRef, Field(json_schema_extra=checked(immutable("resourceRef")))]
    """The HoopResource whose server the role lives on. Immutable."""

    type: Annotated[PlanType, Field(json_schema_extra=checked(immutable("type")))]
    """managed: the role's grants are exactly `privileges` on `scopes`. external: the role is a member of
    `sourceRole`, whose grants somebody else looks after. Immutable."""

    role: Annotated[
        str,
        Field(
            min_length=1,
            max_length=44,
            json_schema_extra=checked(
                rule(
                    "self.matches('[A-Za-z0-9]')",
                    "role needs at least one ASCII letter or digit for the PostgreSQL role name",
                ),
                immutable("role"),
            ),
        ),
    ]
    """Short label that the name of the PostgreSQL role derives from, such as `ro`; status.role has the whole
    name. Immutable."""

    scopes: Annotated[
        tuple[Scope, ...], Field(max_length=128, json_schema_extra=SET | checked(_not_empty("scopes")))
    ] = ()
    """Where the role may do it: databases, each as `database` or `database.schema`, such as `shop.reporting`;
    no schema means `public`. A name with a dot in it stands in double quotes: `"my.db".public`. Needed for
    managed, ignored for external."""

    privileges: Annotated[
        tuple[Privilege, ...],
        Field(max_length=len(Privilege), json_schema_extra=SET | checked(_not_empty("privileges"))),
    ] = ()
    """What the role may do in every scope, also with objects that are created later: SELECT, INSERT, UPDATE,
    DELETE, TRUNCATE, REFERENCES and TRIGGER on tables and views, CREATE on the schema, EXECUTE on its
    routines. Needed for managed, ignored for external."""

    source_role: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """PostgreSQL role that the login role becomes a member of, such as `pg_read_all_data`. Needed for
    external, ignored for managed."""

    rotate_password: bool = False
    """Give the role a new password once with every change of the spec that has this true. Default: false."""

    rotation_interval: RotationInterval | None = None
    """How old the password may grow, such as 720h or 1h30m; at least 1m. It is rotated up to a tenth of that
    earlier. Default: it is not rotated on schedule."""

    secret_name: SecretName | None = None
    """Name of the Secret that receives the credentials, in the plan's namespace. A changed name removes the
    old Secret. Default: `<metadata.name>-credentials`."""

    secret_template: SecretTemplate | None = None
    """Shapes the Secret for applications that expect other keys, labels or another type. Default: none."""

    approval: Approval = Approval.AUTOMATIC
    """Automatic: the plan is applied as soon as it is computed. Manual: it is shown in status.plan, drift
    included, and applied when the annotation `hoop.dev/approve` has its checksum; the password, its Secret and
    deletion need no approval. Default: Automatic."""

    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE
    """What becomes of the PostgreSQL role when this object is deleted. Delete: it is dropped, what it owns is
    given to the owner of the database. Retain: it stays, with its password;
    the Secret goes. Default: Delete."""

    suspend: bool = False
    """Do nothing while true; deletion still works. Default: false."""


STATEMENTS_BYTES = 80 * 1024

StatementText = Annotated[str, Field(max_length=2048), clip(2048)]

HISTORY_MESSAGE_BYTES = 2048

HistoryMessage = Annotated[str, Field(max_length=1024), clip(1024), clip_stored(HISTORY_MESSAGE_BYTES)]

# All annotations of an object share 256 KiB, so none is cut: it has to compare equal the next time.
AnnotationValueSeen = Annotated[str, Field(max_length=262144)]


class ServiceBinding(KubernetesModel):
    """Where Service Binding tools find the Secret (servicebinding.io, Provisioned Service)."""

    name: ReportedName
    """Name of the output Secret."""


class ComputedPlan(KubernetesModel):
    """The difference between what is asked and what the server has, as SQL."""

    sid: Annotated[str, Field(max_length=36)]
    """Identity of the run that computed it."""

    checksum: Annotated[str, Field(max_length=128)]
    """What the annotation `hoop.dev/approve` has to say to have exactly this plan applied."""

    statements: Annotated[
        tuple[StatementText, ...],
        Field(max_length=MAX_STATEMENTS, json_schema_extra=ATOMIC),
        clip(MAX_STATEMENTS),
        clip_stored_list(STATEMENTS_BYTES),
    ] = ()
    """Its statements in order, without passwords; the first 256 of them, 80 KiB in all."""

    count: NonNegative
    """How many statements it has."""

    computed_at: Timestamp
    """When it was computed."""


class HistoryEntry(KubernetesModel):
    """One run of the past."""

    sid: Annotated[str, Field(max_length=36)]
    """Identity of the run."""

    trigger: Annotated[str, Field(max_length=64), clip(64)]
    """What the run was for."""

    checksum: Annotated[str, Field(max_length=128)] | None = None
    """Checksum of its plan, where it came as far as that."""

    generation: NonNegative | None = None
    """The `metadata.generation` that it looked at."""

    reconcile_at: Annotated[str, Field(max_length=64), clip(64)] | None = None
    """Value of the annotation `hoop.dev/reconcile-at` that it met, cut to 64 characters."""

    status: Outcome
    """Outcome: success or failed."""

    message: HistoryMessage = ""
    """What failed; empty on success."""

    statement_count: NonNegative = 0
    """How many statements its plan had."""

    repaired: (
        Annotated[
            tuple[Annotated[str, Field(max_length=32)], ...],
            Field(max_length=16, json_schema_extra=ATOMIC),
        ]
        | None
    ) = None
    """What had drifted and it repaired, each kind once: as `hoop_drift_total` has them, such as `grant_missing`."""

    started_at: Timestamp
    """When it began."""

    finished_at: Timestamp
    """When it ended."""


class HoopRolePlanStatus(KubernetesModel):
    """What the last run did and found."""

    sid: Annotated[str, Field(max_length=36)] | None = None
    """Identity of the last run; every run has a new one."""

    status: Outcome | None = None
    """Outcome of the last run: success or failed. A plan that was computed and waits for approval is a
    success."""

    message: Message | None = None
    """What failed and what to do; empty on success."""

    resource_name: Annotated[str, Field(max_length=128), clip(128)] | None = None
    """Name of the resource that the role's name derives from."""

    role: Annotated[str, Field(max_length=63)] | None = None
    """Name of the PostgreSQL role."""

    role_oid: NonNegative | None = None
    """OID of the PostgreSQL role, by which it is known again."""

    system_identifier: Annotated[str, Field(max_length=20)] | None = None
    """Identity of the database cluster that the role lives on, as of the last apply."""

    observed_generation: NonNegative | None = None
    """The `metadata.generation` that the last run looked at."""

    secret_name: ReportedName | None = None
    """Secret of the same namespace that holds the credentials."""

    binding: ServiceBinding | None = None
    """The same Secret, where Service Binding tools look for it."""

    plan: ComputedPlan | None = None
    """The last plan that had something to do."""

    last_applied_time: Timestamp | None = None
    """When a plan was last applied."""

    last_applied_sid: Annotated[str, Field(max_length=36)] | None = None
    """Identity of the run that last sent statements of its plan, or that took up an approval to do so. Every
    checksum covers it, so that one approval is good for one apply."""

    last_rotation_time: Timestamp | None = None
    """When the password was last changed."""

    next_rotation_time: Timestamp | None = None
    """When the password is due by spec.rotationInterval, as of the last run; absent while suspended."""

    history: Annotated[
        tuple[HistoryEntry, ...], Field(max_length=MAX_HISTORY, json_schema_extra=ATOMIC), clip(MAX_HISTORY)
    ] = ()
    """The last ten runs, newest first."""

    observed_reconcile_at: AnnotationValueSeen | None = None
    """Value of the annotation `hoop.dev/reconcile-at` that was last acted on."""

    observed_approve: AnnotationValueSeen | None = None
    """Value of the annotation `hoop.dev/approve` that was last looked at."""

    observed_rotate_at: AnnotationValueSeen | None = None
    """Value of the annotation `hoop.dev/rotate-at` that was last acted on."""

    rotated_generation: NonNegative | None = None
    """The `metadata.generation` for which `spec.rotatePassword` was last acted on."""

    conditions: Conditions = ()
    """Ready sums up. Planned, Applied, SecretReady, InSync and FutureObjectsCovered tell how far it holds;
    PendingApproval and Suspended why nothing is done."""


HOOP_ROLE_PLAN = CustomResource(
    kind="HoopRolePlan",
    short_name="hrp",
    description="A PostgreSQL login role and what it may do. The operator plans the difference between this"
    " and the server, applies it, and writes the generated credentials into a Secret.",
    spec=HoopRolePlanSpec,
    status=HoopRolePlanStatus,
    columns=(
        PrinterColumn("Resource", ".spec.resourceRef.name"),
        PrinterColumn("Role", ".status.role"),
        PrinterColumn("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        PrinterColumn("Age", ".metadata.creationTimestamp", type="date"),
        PrinterColumn("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
    ),
    selectable_fields=(".spec.resourceRef.name", ".spec.type"),
    rules=(
        rule(
            "has(self.spec.secretName) || size(self.metadata.name) <= 241",
            "spec.secretName is needed where metadata.name is longer than 241 characters",
            field="spec.secretName",
            missing=True,
        ),
    ),
)

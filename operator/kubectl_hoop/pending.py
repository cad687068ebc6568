"""What waits for approval, as the operator computed it."""

from hoop_operator.reconcile.objects import Plan
from kubectl_hoop.changes import diff, of_status
from kubectl_hoop.options import say

TO_APPLY = "; to apply exactly this, run: "
"""Where the message of a plan that waits goes on with the command, which nobody needs here."""


def show_pending(plan: Plan) -> None:
    """Print what waits for approval: in words, as a diff, and its checksum."""
    shown = plan.status["plan"]
    say((f"HoopRolePlan {plan.key}: role {plan.status.get('role', '')}", "bold"))
    say(plan.condition("PendingApproval").get("message", "").partition(TO_APPLY)[0])
    for text, style in diff(of_status(shown["statements"])):
        say((text, style))
    if (hidden := shown["count"] - len(shown["statements"])) > 0:
        say((f"… and {hidden} more statements than a status holds: hoop-operator plan prints all", "yellow"))
    say(f"{shown['count']} statements, computed at {shown['computedAt']}, checksum {shown['checksum']}")

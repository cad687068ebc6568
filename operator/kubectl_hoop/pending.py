"""What waits for approval, as the operator computed it."""

from hoop_operator.reconcile.objects import Plan
from kubectl_hoop.changes import diff, of_status
from kubectl_hoop.options import say

TO_APPLY = "; to apply exactly this, run: "
"""Where the message of a plan that waits goes on with the command, which nobody needs here."""
CUT = "…"
"""How a text ends that is longer than a status holds."""


def show_pending(plan: Plan) -> bool:
    """Print what waits for approval, in words, as a diff, and its checksum; return whether that is all of it."""
    pending = plan.status["plan"]
    texts = pending["statements"]
    say((f"HoopRolePlan {plan.key}: role {plan.status.get('role', '')}", "bold"))
    say(plan.condition("PendingApproval").get("message", "").partition(TO_APPLY)[0])
    for text, style in diff(of_status(texts)):
        say((text, style))
    hidden = pending["count"] - len(texts)
    cut = sum(text.endswith(CUT) for text in texts)
    if hidden or cut:
        say(
            (
                f"NOT ALL IS SHOWN: {hidden} statements are left out and {cut} are cut short, for a status holds no "
                f"more; hoop-operator plan prints all",
                "bold red",
            )
        )
    say(f"{pending['count']} statements, computed at {pending['computedAt']}, checksum {pending['checksum']}")
    return not (hidden or cut)

"""What separates a role from its plan."""

from dataclasses import dataclass, field

from hoop_operator.errors import PlanReason
from hoop_operator.planner.statements import Statement


@dataclass(slots=True)
class Difference:
    """What separates a role from its plan: statements that close the gap, and what stands against them."""

    statements: list[Statement] = field(default_factory=list)
    problems: list[tuple[PlanReason, str]] = field(default_factory=list)
    withheld_routines: list[str] = field(default_factory=list)
    """Routines that EXECUTE leaves out because an extension keeps them from PUBLIC."""
    uncovered_owners: list[str] = field(default_factory=list)
    """In words: owners whose future objects the admin cannot grant on, and the SQL that would let it."""

    def extend(self, other: "Difference") -> None:
        """Add all that `other` holds."""
        self.statements += other.statements
        self.problems += other.problems
        self.withheld_routines += other.withheld_routines
        self.uncovered_owners += other.uncovered_owners

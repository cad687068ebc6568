"""promtool, which checks Prometheus rules and runs their unit tests."""

from pathlib import Path

from local import gobuild

MODULE = Path(__file__).parents[1] / "monitoring/promtool"
PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"


def promtool() -> Path:
    """Return promtool, built into our cache if need be.

    Raises
    ------
    StackError
        The build failed.
    """
    # It can watch targets at every cloud; to check rules takes none of that.
    return gobuild.build(MODULE, PACKAGE, takes="about two minutes", options=["-tags", "remove_all_sd"])

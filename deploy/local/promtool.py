"""promtool, which checks Prometheus rules and runs their unit tests: built once from a pinned Go module."""

from pathlib import Path

from local import gobuild

RECIPE = gobuild.Recipe(
    name="promtool",
    module=Path(__file__).parents[1] / "monitoring/promtool",
    packages=["github.com/prometheus/prometheus/cmd/promtool"],
    programs=["promtool"],
    announcement="Building promtool from source, once: about two minutes on two cores.",
    tags="remove_all_sd",  # it can watch targets at every cloud; to check rules takes none of that
)


def promtool() -> Path:
    """Return promtool, built into our cache if need be.

    Raises
    ------
    StackError
        The build failed.
    """
    return gobuild.built(RECIPE) / "promtool"

"""Which targets a benchmark holds the operator to."""

from dataclasses import replace

import pytest

from bench import broken, http_api, scenario, servers, soak
from bench.measure import Cost
from bench.report import Measured, missed

QUIET = Cost(api_reads={"GET hooproleplans": 5}, sql={"reading": 9, "writing": 0})
BUSY = Cost(api_writes={"PATCH hooproleplans": 2}, sql={"reading": 9, "writing": 3})
STEADY = [100.0] * 20
CREATION = scenario.Creation(BUSY, 1.0, 1.0, 2.0)

PLANS = scenario.Result(100, CREATION, scenario.Look(QUIET, 100), scenario.Look(QUIET, 100))
SERVERS = servers.Result(50, 100, BUSY, QUIET, QUIET, 80.0)
BROKEN = broken.Result(1000, ["InvalidSpec"], QUIET, QUIET, 3, 1.0)
SOAK = soak.Result(100, 20_000, BUSY, STEADY)
HTTP_API = http_api.Result(50, 900, [], {"list": (0.1, 0.2)}, 90.0, 95.0)


def test_what_stays_within_its_targets_misses_none() -> None:
    assert missed(Measured()) == []
    assert missed(Measured([PLANS], [], [SERVERS], [BROKEN], [SOAK], [HTTP_API])) == []


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        (
            Measured(results=[replace(PLANS, restart=scenario.Look(BUSY, 100))]),
            [
                "API writes of a restart with 100 plans: 2, and not 0 at most",
                "SQL statements that write of a restart with 100 plans: 3, and not 0 at most",
            ],
        ),
        (
            Measured(servers=[replace(SERVERS, restart=BUSY)]),
            ["API writes of a restart with 50 servers: 2, and not 0 at most"],
        ),
        (
            Measured(servers=[replace(SERVERS, drift=BUSY)]),
            ["API writes of a drift period of 50 servers: 2, and not 0 at most"],
        ),
        (
            Measured(broken=[replace(BROKEN, steady=BUSY)]),
            ["API writes of 1,000 broken plans: 2, and not 0 at most"],
        ),
        (
            Measured(broken=[replace(BROKEN, away=BUSY)]),
            ["API writes of 1,000 broken plans while their server is away: 2, and not 0 at most"],
        ),
        (
            Measured(broken=[replace(BROKEN, attempts=4)]),
            ["attempts per minute to connect to a server that is away: 4, and not 3 at most"],
        ),
        (
            Measured(soak=[replace(SOAK, rss_mib=[*STEADY, 106.0])]),
            ["growth of memory, in times: 1.06, and not 1.05 at most"],
        ),
        (
            Measured(http_api=[replace(HTTP_API, failures=["list: 500"])]),
            ["failures of the HTTP API: 1, and not 0 at most"],
        ),
    ],
)
def test_a_target_that_was_missed_is_named(measured: Measured, told: list[str]) -> None:
    assert missed(measured) == told

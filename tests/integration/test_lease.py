"""The lock that an election is about, on a real API server and with a clock of the test's own."""

from datetime import UTC, datetime, timedelta

import pytest
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.leases import Lease
from hoop_operator.settings import LEASE_SECONDS_MAX

pytestmark = pytest.mark.version_independent

NAME = "contested"


class Candidate:
    """Somebody who would like to lead, at a time that the test sets."""

    def __init__(self, api: KubernetesApi, namespace: str, identity: str, lease_seconds: float = 15) -> None:
        self.now = 0.0
        self.lease = Lease(
            api,
            namespace=namespace,
            name=NAME,
            identity=identity,
            lease_seconds=lease_seconds,
            request_seconds=10,
            clock=lambda: self.now,
        )

    async def try_to_lead(self) -> bool:
        """Make one attempt of an election that knows nothing yet."""

        async def nothing() -> None:
            pass

        config = Config(self.lease, 15, 10, 2, nothing, nothing)
        return await LeaderElection(config).try_acquire_or_renew()

    async def take(self) -> bool:
        """Read and write the Lease, as an election whose clock jumped does."""
        await self.lease.get(NAME, self.lease.namespace)
        record = LeaderElectionRecord(self.lease.identity, "15", "", "")
        return await self.lease.update(NAME, self.lease.namespace, record)


async def test_a_lease_is_taken_when_it_was_not_renewed_for_as_long_as_its_holder_said(
    api: KubernetesApi, namespace: str
) -> None:
    first, second = Candidate(api, namespace, "first", 30), Candidate(api, namespace, "second", 5)
    assert await first.try_to_lead()
    assert not await second.take()
    second.now = 29
    assert not await second.take()
    assert await first.try_to_lead()
    second.now = 31
    assert not await second.take()
    second.now = 62
    assert await second.take()
    assert not await first.take()
    spec = (await api.get(paths.lease(namespace, NAME)))["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (
        "second",
        5,
        1,
    )
    renewed = datetime.fromisoformat(spec["renewTime"])
    assert abs(datetime.now(UTC) - renewed) < timedelta(minutes=1)


async def test_what_somebody_wrote_into_a_lease_keeps_nobody_from_leading_for_long(
    api: KubernetesApi, namespace: str
) -> None:
    first, second = Candidate(api, namespace, "first"), Candidate(api, namespace, "second")
    assert await first.try_to_lead()
    largest = 2**31 - 1
    spec = {
        "holderIdentity": "nobody",
        "leaseDurationSeconds": largest,
        "leaseTransitions": largest,
        "renewTime": "2999-01-01T00:00:00.000000Z",
    }
    await api.merge_patch(paths.lease(namespace, NAME), {"spec": spec})
    assert not await second.take()
    second.now = LEASE_SECONDS_MAX - 1
    assert not await second.take()
    second.now = LEASE_SECONDS_MAX + 1
    assert await second.take()


async def test_a_lease_that_was_given_back_is_free_at_once(api: KubernetesApi, namespace: str) -> None:
    first, second = Candidate(api, namespace, "first"), Candidate(api, namespace, "second")
    assert await first.try_to_lead()
    assert first.lease.was_held
    assert not await second.try_to_lead()
    await second.lease.release()
    assert not await second.try_to_lead()
    await first.lease.release()
    assert first.lease.held_for() == float("inf")
    assert (await api.get(paths.lease(namespace, NAME)))["spec"]["holderIdentity"] == ""
    assert await second.try_to_lead()
    await first.lease.release()
    assert not await first.try_to_lead()


async def test_of_two_that_read_the_same_version_one_gets_it(api: KubernetesApi, namespace: str) -> None:
    first, second = Candidate(api, namespace, "first"), Candidate(api, namespace, "second")
    assert await first.try_to_lead()
    await first.lease.release()
    record = LeaderElectionRecord(None, None, None, None)
    await first.lease.get(NAME, namespace)
    await second.lease.get(NAME, namespace)
    assert await second.lease.update(NAME, namespace, record)
    assert not await first.lease.update(NAME, namespace, record)
    assert not await first.lease.create(NAME, namespace, record)


async def test_what_the_api_server_refuses_means_not_now(
    api: KubernetesApi, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = Candidate(api, f"{namespace}-not", "first")
    for _ in range(2):
        assert not await candidate.try_to_lead()
    assert not candidate.lease.was_held
    assert caplog.text.count("cannot be read or written, trying again") == 1

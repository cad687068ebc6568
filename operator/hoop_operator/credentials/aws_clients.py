"""boto3's clients of Secrets Manager: one for each region of late, made only for regions that there are.

boto3 is imported when the first one is asked for. It takes its time: use it in threads.
"""

import logging
import threading
from typing import Any

CLIENTS_MAX = 8
"""Who may name secrets by ARN chooses the regions; what is used least recently is closed."""
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2, 3, 2


class Clients:
    """Clients by region, with the credentials that boto3 finds.

    Parameters
    ----------
    region
        The operator's own, which is taken even if boto3 does not know it; None leaves it to boto3's configuration.
    connections
        How many of them a client keeps open.
    """

    def __init__(self, region: str | None, connections: int) -> None:
        self._region = region
        self._connections = connections
        self._of: dict[str | None, Any] = {}
        self._loader: Any = None
        self._known: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def of(self, region: str | None) -> Any:
        """The client of a region.

        Raises
        ------
        ImportError
            boto3 is not installed.
        UnknownRegion
            boto3 knows no such region.
        BotoCoreError
            There are no credentials, or no region is set.
        """
        with self._lock:  # sessions are not safe to be made by several threads
            self._load()
            if region != self._region and region not in self._known:
                raise UnknownRegion
            client = self._of.pop(region, None) or self._make(region)
            self._of[region] = client
            while len(self._of) > CLIENTS_MAX:
                self._of.pop(next(iter(self._of))).close()
            return client

    def forget(self, region: str | None) -> None:
        """Have the next client of a region look for credentials anew."""
        with self._lock:
            if (client := self._of.pop(region, None)) is not None:
                client.close()

    def _load(self) -> None:
        if self._loader is not None:
            return
        import botocore.session

        # At DEBUG it logs the bodies of answers.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        session = botocore.session.get_session()
        self._known = frozenset(
            region
            for partition in session.get_available_partitions()
            for region in session.get_available_regions("secretsmanager", partition)
        )
        # It keeps the descriptions of services, 8 MiB: shared by all sessions.
        self._loader = session.get_component("data_loader")

    def _make(self, region: str | None) -> Any:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import NoCredentialsError

        session = botocore.session.get_session()
        session.register_component("data_loader", self._loader)
        # For all that asks on the way as well, such as STS for a role.
        session.set_default_client_config(
            Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                max_pool_connections=self._connections,
            )
        )
        if session.get_credentials() is None:
            raise NoCredentialsError
        return boto3.Session(region_name=region, botocore_session=session).client("secretsmanager")


class UnknownRegion(Exception):
    """boto3 knows no region of that name."""

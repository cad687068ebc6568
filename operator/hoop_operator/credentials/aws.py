"""Secrets of AWS Secrets Manager, asked for in threads, so that nothing else waits for AWS.

boto3 finds the operator's own credentials as it does everywhere: IRSA, EKS Pod Identity, environment, files, instance
metadata. It is imported when the first secret is asked for, and need not be installed where none is.
"""

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hoop_operator.credentials.references import Unresolved, is_arn, member

T = TypeVar("T")

WHOLE_TEXT, WHOLE_BINARY = "SecretString", "SecretBinary"
"""The KEYs that stand for a secret as a whole: Secrets Manager's own names for what it holds."""

ANSWER_SECONDS = 10.0
"""How long AWS may take, the search for credentials included."""
FRESH_SECONDS = 5.0
"""How long an answer serves whoever asks for the same secret."""
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2, 3, 2
"""Together less than `ANSWER_SECONDS`, so that a thread does not outlast its question by much."""
THREADS_MAX = 8

# As in the AWS Secrets Manager API Reference, CreateSecret; `!` is in the names of secrets that other services manage.
_NAME = re.compile(r"[A-Za-z0-9/_+=.@!-]{1,512}")
_ARN = re.compile(
    rf"arn:aws[a-z-]*:secretsmanager:(?P<region>[a-z0-9-]{{1,32}}):[0-9]{{12}}:secret:{_NAME.pattern}"
)

NOT_INSTALLED = (
    "boto3 is not installed with this operator; install hoop-operator[aws], or give the value itself"
)
REMEDIES = {
    "ResourceNotFoundException": "it does not exist; create it, or correct the name or the region",
    "InvalidRequestException": "it is being deleted or has no current version; restore it, or give it a value",
    "AccessDeniedException": "the operator's AWS role may not read it; allow that role "
    "secretsmanager:GetSecretValue on it, and kms:Decrypt on its key",
    "DecryptionFailure": "its KMS key does not decrypt it; enable the key, or allow kms:Decrypt to the operator's role",
}
THROTTLING = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded")
CREDENTIALS_REFUSED = re.compile(r"ExpiredToken|UnrecognizedClient|InvalidClientTokenId|InvalidSignature")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contents:
    """The current version of a secret: one of the two."""

    text: str | None = field(default=None, repr=False)
    binary: bytes | None = field(default=None, repr=False)

    def value(self, key: str) -> bytes:
        """The secret as a whole, or the value of a key in it.

        Raises
        ------
        ValueError
            There is none; the message quotes nothing but the key.
        """
        whole = {WHOLE_TEXT: self.text.encode() if self.text is not None else None, WHOLE_BINARY: self.binary}
        if key not in whole:
            try:
                return member(self.text if self.text is not None else self.binary or b"", key)
            except ValueError as error:
                name = WHOLE_TEXT if self.text is not None else WHOLE_BINARY
                raise ValueError(
                    f"{error}; correct the secret or the KEY, where {name} stands for all of it"
                ) from None
        value = whole[key]
        if value is None:
            raise ValueError(
                f"it has no {key}; its {WHOLE_BINARY if key == WHOLE_TEXT else WHOLE_TEXT} is set"
            )
        return value


@dataclass(slots=True)
class _Question:
    asked: float
    answer: "asyncio.Task[Contents | Unresolved]" = field(repr=False)


class SecretsManager:
    """Reads secrets, each one once for all who ask at about the same time.

    Parameters
    ----------
    region
        Where secrets are that are named without an ARN; None leaves it to boto3's own configuration.
    """

    def __init__(self, region: str | None) -> None:
        self._region = region
        self._questions: dict[str, _Question] = {}
        self._clients: dict[str | None, Any] = {}
        self._lock = threading.Lock()
        self._threads = asyncio.Semaphore(THREADS_MAX)

    async def read(self, secret: str, since: float = 0.0) -> Contents | Unresolved:
        """The current version of a secret, named by its name or ARN.

        Parameters
        ----------
        secret
            Its name or ARN.
        since
            A time of the monotonic clock; what was asked for earlier does not serve.
        """
        if not (_ARN if is_arn(secret) else _NAME).fullmatch(secret):
            return Unresolved("SECRET must be the name or the ARN of a secret in AWS Secrets Manager")
        question = self._questions.get(secret)
        if question is None or question.asked < since:
            question = _Question(time.monotonic(), asyncio.create_task(self._ask(secret)))
            self._questions[secret] = question
            question.answer.add_done_callback(lambda _: self._keep_briefly(secret, question))
        try:
            # Shielded, for others may wait for the same answer.
            return await asyncio.wait_for(asyncio.shield(question.answer), ANSWER_SECONDS)
        except TimeoutError:
            return Unresolved(
                f"secret {secret}: AWS did not answer within {ANSWER_SECONDS:g} s; it will be tried again"
            )

    def _keep_briefly(self, secret: str, question: _Question) -> None:
        def forget() -> None:
            if self._questions.get(secret) is question:
                del self._questions[secret]

        answered = not question.answer.cancelled() and isinstance(question.answer.result(), Contents)
        if answered:
            asyncio.get_running_loop().call_later(FRESH_SECONDS, forget)
        else:
            forget()

    async def _ask(self, secret: str) -> Contents | Unresolved:
        await self._threads.acquire()
        return await _in_thread(lambda: self._get(secret), self._threads.release)

    def _get(self, secret: str) -> Contents | Unresolved:
        """Ask AWS, in a thread."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
        except ImportError:
            return Unresolved(f"secret {secret}: {NOT_INSTALLED}")
        arn = _ARN.fullmatch(secret)
        region = arn["region"] if arn else self._region
        try:
            answer = self._client(region).get_secret_value(SecretId=secret)
            return Contents(answer.get("SecretString"), answer.get("SecretBinary"))
        except ClientError as error:
            return self._refusal(secret, region, error)
        except NoCredentialsError:
            why = "the operator has no AWS credentials; give its service account a role (IRSA or EKS Pod Identity)"
        except NoRegionError:
            why = "no region is set; set HOOP_AWS_REGION, or name the secret by its ARN"
        except BotoCoreError as error:
            # What such an error says may hold the body of an answer.
            why = f"AWS cannot be reached ({type(error).__name__}); it will be tried again"
        except Exception as error:  # noqa: BLE001 -- nothing that a library does wrong may quote what it was told
            why = f"it could not be read ({type(error).__name__}); it will be tried again"
        logger.warning("AWS secret %s: %s", secret, why)
        return Unresolved(f"secret {secret}: {why}")

    def _refusal(self, secret: str, region: str | None, error: Any) -> Unresolved:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if CREDENTIALS_REFUSED.search(code):
            with self._lock:
                self._clients.pop(region, None)  # the next one looks for credentials anew
        if THROTTLING.search(code):
            why = f"AWS takes no more requests for now ({code}); it will be tried again"
        else:
            why = f"{REMEDIES.get(code, 'AWS refuses to give it')} ({code})"
        # Whom AWS took the operator for, and what it lacks, is for those who run it.
        logger.warning("AWS secret %s: %s", secret, error)
        return Unresolved(f"secret {secret}: {why}")

    def _client(self, region: str | None) -> Any:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import NoCredentialsError

        # At DEBUG it logs the bodies of answers.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        with self._lock:  # sessions are not safe to be made by several threads
            if region not in self._clients:
                session = botocore.session.get_session()
                # For all that asks on the way as well, such as STS for a role.
                session.set_default_client_config(
                    Config(
                        connect_timeout=CONNECT_SECONDS,
                        read_timeout=READ_SECONDS,
                        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                    )
                )
                if session.get_credentials() is None:
                    raise NoCredentialsError
                self._clients[region] = boto3.Session(region_name=region, botocore_session=session).client(
                    "secretsmanager"
                )
            return self._clients[region]


async def _in_thread(work: Callable[[], T], over: Callable[[], None]) -> T:
    """Do work in a thread that nobody has to wait for, not even the end of the process; then call `over`."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def end(result: T) -> None:
        over()
        if not outcome.done():
            outcome.set_result(result)

    def run() -> None:
        result = work()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, result)

    threading.Thread(target=run, name="AWS", daemon=True).start()
    return await outcome

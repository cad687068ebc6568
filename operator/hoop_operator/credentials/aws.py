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
from weakref import WeakValueDictionary

from hoop_operator.credentials.aws_clients import Clients, UnknownRegion
from hoop_operator.credentials.references import Unresolved, is_arn, member

T = TypeVar("T")

WHOLE_TEXT, WHOLE_BINARY = "SecretString", "SecretBinary"
"""The KEYs that stand for a secret as a whole: Secrets Manager's own names for what it holds."""

ANSWER_SECONDS = 10.0
"""How long AWS may take for a secret once it is its turn, the search for credentials included."""
FRESH_SECONDS = 5.0
"""How long an answer serves whoever asks for the same secret."""
READS_MAX, READS_PER_NAMESPACE_MAX = 32, 4
"""How many secrets are read at once, each in a thread of its own."""

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
    answer: "asyncio.Task[Contents | Unresolved]" = field(init=False, repr=False)
    begun: float | None = None
    """When AWS was asked; None while it is not its turn yet."""

    def serves(self, since: float) -> bool:
        return self.begun is None or self.begun >= since


class SecretsManager:
    """Reads secrets, each one once for all in a namespace who ask at about the same time.

    No namespace waits for what another one asks for: each has a few reads at once, and those that wait for a thread
    take turns.

    Parameters
    ----------
    region
        Where secrets are that are named without an ARN; None leaves it to boto3's own configuration.
    """

    def __init__(self, region: str | None) -> None:
        self._region = region
        self._questions: dict[tuple[str, str], _Question] = {}
        self._clients = Clients(region, READS_MAX)
        self._reads = asyncio.Semaphore(READS_MAX)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def read(self, secret: str, namespace: str, since: float = 0.0) -> Contents | Unresolved:
        """The current version of a secret, named by its name or ARN.

        Parameters
        ----------
        secret
            Its name or ARN.
        namespace
            Who asks for it.
        since
            A time of the monotonic clock; what AWS was asked for earlier does not serve.
        """
        if not (_ARN if is_arn(secret) else _NAME).fullmatch(secret):
            return Unresolved("SECRET must be the name or the ARN of a secret in AWS Secrets Manager")
        name = (namespace, secret)
        question = self._questions.get(name)
        if question is None or not question.serves(since):
            question = self._questions[name] = self._begin(name)
        # Shielded, for others may wait for the same answer.
        return await asyncio.shield(question.answer)

    def _begin(self, name: tuple[str, str]) -> _Question:
        question = _Question()
        question.answer = asyncio.create_task(self._ask(question, *name))
        question.answer.add_done_callback(lambda _: self._keep_briefly(name, question))
        return question

    def _keep_briefly(self, name: tuple[str, str], question: _Question) -> None:
        def forget() -> None:
            if self._questions.get(name) is question:
                del self._questions[name]

        answered = not question.answer.cancelled() and isinstance(question.answer.result(), Contents)
        if answered:
            asyncio.get_running_loop().call_later(FRESH_SECONDS, forget)
        else:
            forget()

    async def _ask(self, question: _Question, namespace: str, secret: str) -> Contents | Unresolved:
        share = self._shares.setdefault(namespace, asyncio.Semaphore(READS_PER_NAMESPACE_MAX))
        await share.acquire()
        # Who waits here is served in order, and has no more than its share of those who wait.
        await self._reads.acquire()

        def over() -> None:
            self._reads.release()
            share.release()

        question.begun = time.monotonic()
        try:
            return await asyncio.wait_for(_in_thread(lambda: self._get(secret), over), ANSWER_SECONDS)
        except TimeoutError:
            return Unresolved(
                f"secret {secret}: AWS did not answer within {ANSWER_SECONDS:g} s; it will be tried again"
            )

    def _get(self, secret: str) -> Contents | Unresolved:
        """Ask AWS, in a thread."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
        except ImportError:
            return Unresolved(f"secret {secret}: {NOT_INSTALLED}")
        arn = _ARN.fullmatch(secret)
        region = arn["region"] if arn else self._region
        try:
            answer = self._clients.of(region).get_secret_value(SecretId=secret)
            return Contents(answer.get("SecretString"), answer.get("SecretBinary"))
        except ClientError as error:
            return self._refusal(secret, region, error)
        except UnknownRegion:
            why = f"boto3 knows no region {region}; correct the ARN"
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
            self._clients.forget(region)
        if THROTTLING.search(code):
            why = f"AWS takes no more requests for now ({code}); it will be tried again"
        else:
            why = f"{REMEDIES.get(code, 'AWS refuses to give it')} ({code})"
        # Whom AWS took the operator for, and what it lacks, is for those who run it.
        logger.warning("AWS secret %s: %s", secret, error)
        return Unresolved(f"secret {secret}: {why}")


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

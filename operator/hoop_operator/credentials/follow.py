"""Following references: to AWS Secrets Manager and to the operator's own environment, as far as settings allow it."""

import asyncio
import os
from collections.abc import Iterable, Mapping

from hoop_operator.credentials.aws import Contents, SecretsManager
from hoop_operator.credentials.references import (
    Reference,
    ReferenceKind,
    Unresolved,
    Values,
    is_allowed,
    member,
)
from hoop_operator.settings import Settings

SECRETS_MAX = 64
"""To how many secrets of AWS one resource may refer."""


class Follower:
    """Finds out what references stand for.

    Parameters
    ----------
    settings
        The operator's settings: what each namespace may refer to, and the AWS region.
    environment
        Where the variables are that `_envjson:` names.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environment = environment
        self._secrets_manager = SecretsManager(settings.aws_region)

    async def follow(self, references: Iterable[Reference], namespace: str, since: float = 0.0) -> Values:
        """What references in a namespace come to.

        Parameters
        ----------
        references
            The references of a resource.
        namespace
            The resource's namespace.
        since
            A time of the monotonic clock, since which a secret may have changed; answers to earlier questions do not
            serve. Otherwise they do for a few seconds.
        """
        asked = list(references)
        secrets = {each.source for each in asked if each.kind is ReferenceKind.AWS}
        if len(secrets) > SECRETS_MAX:
            return dict.fromkeys(asked, _too_many(len(secrets)))
        values = await asyncio.gather(*(self._follow(each, namespace, since) for each in asked))
        return dict(zip(asked, values, strict=True))

    async def _follow(self, reference: Reference, namespace: str, since: float) -> bytes | Unresolved:
        source = reference.source
        if reference.kind is ReferenceKind.AWS:
            if not is_allowed(source, namespace, self._settings.allowed_aws_secrets):
                return _not_allowed(f"AWS secret {source}", namespace, "HOOP_ALLOWED_AWS_SECRETS")
            contents = await self._secrets_manager.read(source, namespace, since)
            if isinstance(contents, Unresolved):
                return contents
            return _value(contents, reference)
        if not is_allowed(source, namespace, self._settings.allowed_envjson):
            return _not_allowed(f"environment variable {source}", namespace, "HOOP_ALLOWED_ENVJSON")
        text = self._environment.get(source)
        if text is None:
            return Unresolved(
                f"the operator has no environment variable {source}; set it, or correct the name"
            )
        try:
            return member(text, reference.key)
        except ValueError as error:
            return Unresolved(
                f"the operator's environment variable {source}: {error}; correct one of the two"
            )


def _value(contents: Contents, reference: Reference) -> bytes | Unresolved:
    try:
        return contents.value(reference.key)
    except ValueError as error:
        return Unresolved(f"secret {reference.source}: {error}")


def _too_many(secrets: int) -> Unresolved:
    return Unresolved(
        f"the resource refers to {secrets} AWS secrets, and none is read for one that refers to more than "
        f"{SECRETS_MAX}; keep several values in one secret, or make several resources"
    )


def _not_allowed(what: str, namespace: str, setting: str) -> Unresolved:
    return Unresolved(
        f"resources of namespace {namespace} may not refer to the {what}; have the operator's setting {setting} allow "
        f"it, or give the value itself"
    )

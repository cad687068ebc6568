"""SCRAM-SHA-256 password verifiers (RFC 5803; PostgreSQL manual, "pg_authid")."""

import base64
import hashlib
import hmac
import re
import secrets
import string

VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
ALPHABET = string.ascii_letters + string.digits
PASSWORD_LENGTH = 40
ITERATIONS = 4096


def generate_password() -> str:
    """A new password of 40 letters and digits, some 238 bits, that no client has to quote."""
    return "".join(secrets.choice(ALPHABET) for _ in range(PASSWORD_LENGTH))


def make_verifier(password: str) -> str:
    """The verifier of an ASCII password, with a new salt, as PostgreSQL stores it.

    Raises
    ------
    ValueError
        The password has other characters than ASCII, and so would have to be normalised by SASLprep first.
    """
    salt = secrets.token_bytes(16)
    stored_key, server_key = _keys(password, salt, ITERATIONS)
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def matches(password: str, verifier: str) -> bool | None:
    """Whether a password is the one a verifier was made from.

    A role may set its own verifier, and with it how long a look at it takes: more iterations than ours are not tried.
    Without iterations, or where it cannot be decoded, it is no match. None where that cannot be told here: the verifier
    is not a SCRAM one, or the password is not ASCII.
    """
    parsed = VERIFIER.fullmatch(verifier)
    if parsed is None:
        return None
    iterations, salt, stored_key, _ = parsed.groups()
    if not 1 <= int(iterations) <= ITERATIONS:
        return False
    if not password.isascii():
        return None
    try:
        salt_bytes, stored_bytes = base64.b64decode(salt), base64.b64decode(stored_key)
    except ValueError:
        return False
    ours, _ = _keys(password, salt_bytes, int(iterations))
    return hmac.compare_digest(ours, stored_bytes)


def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")

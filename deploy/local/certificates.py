"""The keys and certificates of a control plane that lives on one machine."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local.files import write_private

LIFETIME = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files `<name>.crt` and `<name>.key`."""

    directory: Path
    name: str

    @property
    def certificate(self) -> Path:
        """The certificate's file."""
        return self.directory / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        """The private key's file."""
        return self.directory / f"{self.name}.key"


def issue(directory: Path) -> None:
    """Write what the control plane needs into `directory`, unless it is there already.

    `ca` signs `server` (the API server on the loopback address) and `admin` (a member of system:masters);
    `front-proxy-ca` stands for the aggregation layer, which nobody uses here; `service-account` signs tokens.
    """
    identities = {name: Identity(directory, name) for name in ("ca", "front-proxy-ca", "server", "admin")}
    service_account = Identity(directory, "service-account")
    if service_account.key.exists():
        return
    directory.mkdir(parents=True, exist_ok=True)

    authority_key = _new_key(identities["ca"])
    authority = _subject("hoop-local-ca")
    _certify(identities["ca"], _authority(authority, authority_key), authority_key)

    proxy_key = _new_key(identities["front-proxy-ca"])
    _certify(
        identities["front-proxy-ca"], _authority(_subject("hoop-local-front-proxy-ca"), proxy_key), proxy_key
    )

    addresses: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.DNSName("kubernetes.default.svc"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    server = (
        _certificate(_subject("kube-apiserver"), authority, _new_key(identities["server"]))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    _certify(identities["server"], server, authority_key)

    admin = _certificate(
        _subject("hoop-local-admin", "system:masters"), authority, _new_key(identities["admin"])
    ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    _certify(identities["admin"], admin, authority_key)

    _new_key(service_account)  # last: its presence says that all the others are there


def _subject(name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _new_key(owner: Identity) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    write_private(owner.key, pem.decode())
    return key


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def _authority(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return _certificate(subject, subject, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )


def _certify(
    owner: Identity, certificate: x509.CertificateBuilder, authority_key: ec.EllipticCurvePrivateKey
) -> None:
    signed = certificate.sign(authority_key, hashes.SHA256())
    write_private(owner.certificate, signed.public_bytes(serialization.Encoding.PEM).decode())

"""Keys and certificates of the embedded Vers: its own certificate authority, the certificate of the SSH-over-TLS front, and SSH keys.

The authority may only speak for the names that the front answers to, so that trusting it gives nothing else away. Private keys are written
with mode 0600 and never logged.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from langchain_vers.embedded.store import Identity

DOMAIN = "vm.vers.sh"
_CA_LIFETIME = timedelta(days=3650)
_SERVER_LIFETIME = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class TlsFiles:
    """Where the authority's certificate (public) and the front's chain and key lie."""

    ca: Path
    certificate: Path
    key: Path


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically; only its owner can read it, from the first byte on."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def new_identity() -> Identity:
    """Fresh ed25519 host and client keys for a machine."""
    return Identity(host_key=_ssh_private_key(), client_key=_ssh_private_key())


def _ssh_private_key() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    return encoded.decode()


def ensure_tls(folder: Path) -> TlsFiles:
    """The authority and the front's certificate in `folder`, made on first use and renewed before they expire."""
    files = TlsFiles(ca=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server.key")
    ca_key_path = folder / "ca.key"
    if not (_fresh(files.ca) and ca_key_path.exists()):
        ca_key = ec.generate_private_key(ec.SECP256R1())
        write_private(ca_key_path, _pem_key(ca_key))
        write_private(files.ca, _authority(ca_key).public_bytes(serialization.Encoding.PEM))
        files.certificate.unlink(missing_ok=True)
    if not (_fresh(files.certificate) and files.key.exists()):
        loaded = serialization.load_pem_private_key(ca_key_path.read_bytes(), password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{ca_key_path} does not hold the kind of key that this program writes; remove it and start again")
        authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _server_certificate(key, loaded, authority)
        write_private(files.key, _pem_key(key))
        write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return files


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A TLS server context with the front's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    # No session is ever resumed here: tickets would only be bytes that the client must read.
    context.num_tickets = 0
    return context


def _fresh(path: Path) -> bool:
    """Whether the certificate exists, can be read, and is not about to expire."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return False
    return certificate.not_valid_after_utc - _RENEW_BEFORE > datetime.now(UTC)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "langchain-vers embedded authority")])
    start = datetime.now(UTC) - timedelta(minutes=5)
    constraints = x509.NameConstraints(
        permitted_subtrees=[
            x509.DNSName(DOMAIN),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.IPv4Network("127.0.0.0/8")),
        ],
        excluded_subtrees=None,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey, ca_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> x509.Certificate:
    start = datetime.now(UTC) - timedelta(minutes=5)
    names = x509.SubjectAlternativeName(
        [x509.DNSName(f"*.{DOMAIN}"), x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"*.{DOMAIN}")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(start + _SERVER_LIFETIME, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )

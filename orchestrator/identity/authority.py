"""A fleet's private certificate authority, which signs the certificates of the fleet's own servers and nothing else.

Members believe this authority alone, by its fingerprint, so nobody has to know any other, and a certificate that the
world believes is no use to who pretends to be the fleet.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.tls import fingerprint

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 20 * 365
SERVER_DAYS = 90
RENEW_DAYS = 30
"""A server's certificate is made anew when it is good for less than this."""
_EARLY = datetime.timedelta(days=1)
"""Certificates are good from this long ago on: a member's clock may be slow."""


def make_authority() -> tuple[str, str]:
    """A new authority: its private key and its certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    number = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"linguabus fleet {number % 16**8:08x}")])
    builder = _builder(name, name, key, AUTHORITY_DAYS, number)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return _key_pem(key), _pem(_signed(builder.add_extension(own, critical=False), key))


def make_server(authority_key: str, authority: str, hosts: Iterable[str]) -> tuple[str, str]:
    """A server's certificate for names and addresses: its private key and the certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    signer = serialization.load_pem_private_key(authority_key.encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.encode())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "linguabus broker and orchestrator")])
    builder = _builder(name, issuer.subject, key, SERVER_DAYS, x509.random_serial_number())
    builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = builder.add_extension(server, critical=False)
    ours = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return _key_pem(key), _pem(_signed(builder.add_extension(ours, critical=False), signer))


def ends_at(certificate: str) -> datetime.datetime:
    """Until when a certificate (PEM) is good.

    Raises:
        ValueError: that is no certificate.
    """
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def fits(key: str, certificate: str) -> bool:
    """Is this the private key of that certificate?

    Raises:
        ValueError: one of the two is none.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    of_key = serialization.load_pem_private_key(key.encode(), None).public_key()
    return of_key == x509.load_pem_x509_certificate(certificate.encode()).public_key()


def is_good_for(certificate: str, hosts: Iterable[str]) -> bool:
    """Does a server's certificate name all these, and is it good for some time to come?"""
    from cryptography import x509

    try:
        loaded = x509.load_pem_x509_certificate(certificate.encode())
        named = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    left = loaded.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left > datetime.timedelta(days=RENEW_DAYS) and {_host(host) for host in hosts} <= set(named)


def public_key_pin(certificate: str) -> str:
    """The SHA-256 of a certificate's public key, as ``curl --pinnedpubkey`` takes it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"sha256//{base64.b64encode(digest).decode()}"


def fingerprint_text(authority: str) -> str:
    """A certificate's SHA-256 as people compare it."""
    return fingerprint(authority).hex(":", 2)


def _host(host: str) -> x509.DNSName | x509.IPAddress:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int, number: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(number).not_valid_before(now - _EARLY)
    return builder.not_valid_after(now + datetime.timedelta(days=days))


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

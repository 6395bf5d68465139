"""Keys and certificates of a cluster: called once by the supervisor, before anything starts.

Elliptic curve keys (P-256) throughout: a dozen of them take milliseconds. They live as long as the
cluster, in a directory that only its owner can read.
"""

import datetime as dt
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice.devcluster.directories import write_private

_LIFETIME = dt.timedelta(days=365)
_CLOCK_SKEW = dt.timedelta(minutes=5)

API_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
API_SERVER_ADDRESSES = ("127.0.0.1", "10.96.0.1")
KUBELET_CLIENT = "kube-apiserver-kubelet-client"
"""Common name with which the API server calls an agent."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The files of a private key and its certificate."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate speaks of: Kubernetes reads user and groups from it."""

    name: str
    groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that writes what it signs into one directory."""

    directory: Path
    files: KeyPair
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def issue_client(self, file_name: str, subject: Subject) -> KeyPair:
        """Write a client certificate `<file_name>.crt` and its key."""
        return self._issue(file_name, subject, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def issue_server(
        self,
        file_name: str,
        subject: Subject,
        *,
        names: Iterable[str] = (),
        addresses: Iterable[str] = (),
    ) -> KeyPair:
        """Write a serving certificate for these DNS names and IP addresses, and its key."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
        return self._issue(file_name, subject, ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def _issue(
        self,
        file_name: str,
        subject: Subject,
        usage: x509.ObjectIdentifier,
        alternatives: Sequence[x509.GeneralName],
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate
        builder = (
            _start_certificate(subject, issuer.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return _write(self.directory, file_name, builder.sign(self.key, hashes.SHA256()), key)


def create_authority(directory: Path, file_name: str, common_name: str) -> Authority:
    """Make a self-signed authority and write `<file_name>.crt` and `.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = Subject(common_name)
    certificate = (
        _start_certificate(subject, _name(subject), key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(directory, _write(directory, file_name, certificate, key), certificate, key)


def _start_certificate(
    subject: Subject, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _name(subject: Subject) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in subject.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    directory: Path, file_name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> KeyPair:
    files = KeyPair(directory / f"{file_name}.crt", directory / f"{file_name}.key")
    write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    write_private(
        files.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return files


@dataclass(frozen=True, slots=True)
class Certificates:
    """All that the control plane is started with; node certificates come from `authority`."""

    authority: Authority
    front_proxy_authority: Authority
    etcd_authority: Authority
    etcd_server: KeyPair
    etcd_client: KeyPair
    api_server: KeyPair
    admin: KeyPair
    controller_manager: KeyPair
    scheduler: KeyPair
    kubelet_client: KeyPair
    front_proxy_client: KeyPair
    service_accounts: KeyPair


def create_certificates(directory: Path) -> Certificates:
    """Write the certificates of a new control plane into an existing directory."""
    authority = create_authority(directory, "ca", "sluice-embedded-ca")
    front_proxy = create_authority(directory, "front-proxy-ca", "sluice-embedded-front-proxy-ca")
    # An authority of its own, or every node's certificate would open etcd.
    etcd = create_authority(directory, "etcd-ca", "sluice-embedded-etcd-ca")
    return Certificates(
        authority=authority,
        front_proxy_authority=front_proxy,
        etcd_authority=etcd,
        etcd_server=etcd.issue_server("etcd", Subject("etcd"), addresses=["127.0.0.1"]),
        etcd_client=etcd.issue_client("apiserver-etcd-client", Subject("kube-apiserver")),
        api_server=authority.issue_server(
            "apiserver",
            Subject("kube-apiserver"),
            names=API_SERVER_NAMES,
            addresses=API_SERVER_ADDRESSES,
        ),
        admin=authority.issue_client("admin", Subject("sluice-admin", ["system:masters"])),
        controller_manager=authority.issue_client(
            "controller-manager", Subject("system:kube-controller-manager")
        ),
        scheduler=authority.issue_client("scheduler", Subject("system:kube-scheduler")),
        kubelet_client=authority.issue_client("apiserver-kubelet-client", Subject(KUBELET_CLIENT)),
        front_proxy_client=front_proxy.issue_client(
            "front-proxy-client", Subject("front-proxy-client")
        ),
        # Signs tokens; what checks them reads the public key out of the certificate.
        service_accounts=authority.issue_client("service-accounts", Subject("service-accounts")),
    )


def issue_node_certificates(
    authority: Authority, node: str, address: str
) -> tuple[KeyPair, KeyPair]:
    """Write a node's client certificate and the serving certificate of its agent's API."""
    identity = Subject(f"system:node:{node}", ["system:nodes"])
    return (
        authority.issue_client(f"node-{node}", identity),
        authority.issue_server(f"kubelet-{node}", identity, names=[node], addresses=[address]),
    )

"""Certificates for tests: one authority, and pairs for addresses of loopback."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM = serialization.Encoding.PEM


class Authority:
    """Issues certificates; `pem` is its own."""

    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        own = _build(self._name, self._name, self._key).add_extension(constraints, critical=True)
        self.pem = own.sign(self._key, hashes.SHA256()).public_bytes(_PEM)

    def issue(self, name="gateway", *, address="127.0.0.1", password=None, days=1):
        """Return certificate and key in PEM form; it ends in so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [x509.IPAddress(ip_address(address)), x509.DNSName("localhost")]
        )
        builder = _build(_name(name), self._name, key, days).add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        hidden = (
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption()
        )
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, hidden)
        return certificate.public_bytes(_PEM), private


def _name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _build(subject, issuer, key, days=1):
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
    )

import ipaddress
import json
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from sluice.devcluster.certificates import (
    Certificates,
    KeyPair,
    create_certificates,
    issue_node_certificates,
)
from sluice.devcluster.credentials import create_client_context
from sluice.devcluster.kubeconfig import render_kubeconfig


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return create_certificates(tmp_path_factory.mktemp("pki"))


def read(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


def subject(pair: KeyPair) -> tuple[str, list[str]]:
    name = read(pair).subject
    values = {
        oid: [str(each.value) for each in name.get_attributes_for_oid(oid)]
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    }
    return values[NameOID.COMMON_NAME][0], values[NameOID.ORGANIZATION_NAME]


def test_identities_are_those_kubernetes_grants_rights_to(certificates: Certificates) -> None:
    assert subject(certificates.admin) == ("sluice-admin", ["system:masters"])
    assert subject(certificates.controller_manager) == ("system:kube-controller-manager", [])
    assert subject(certificates.scheduler) == ("system:kube-scheduler", [])
    client, serving = issue_node_certificates(certificates.authority, "maia-0", "127.10.1.1")
    assert subject(client) == ("system:node:maia-0", ["system:nodes"])
    names = read(serving).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.10.1.1")]


def test_keys_are_private(certificates: Certificates) -> None:
    keys = list(certificates.authority.directory.glob("*.key"))
    assert len(keys) > 10
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """Return the server's view of the client's common name; raises what the handshake raises."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen: list[str | None] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    with server.wrap_socket(connection, server_side=True) as wrapped:
                        peer = wrapped.getpeercert() or {}
                        names = dict(pair[0] for pair in peer.get("subject", ()))
                        seen.append(names.get("commonName"))
                        wrapped.sendall(b"x")
                except ssl.SSLError:
                    seen.append(None)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=5) as plain,
                client.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
            ):
                assert wrapped.recv(1) == b"x"
        finally:
            thread.join(5)
        return seen[0]


def serve_with(pair: KeyPair, clients: KeyPair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def test_the_administrator_and_the_api_server_trust_each_other(certificates: Certificates) -> None:
    server = serve_with(certificates.api_server, certificates.authority.files)
    client = create_client_context(
        authority=certificates.authority.files.certificate,
        certificate=certificates.admin.certificate,
        key=certificates.admin.key,
    )
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    assert shake_hands(server, client) == "sluice-admin"


def test_a_node_certificate_does_not_open_etcd(certificates: Certificates) -> None:
    node, _ = issue_node_certificates(certificates.authority, "maia-1", "127.10.2.1")
    server = serve_with(certificates.etcd_server, certificates.etcd_authority.files)
    client = create_client_context(
        authority=certificates.etcd_authority.files.certificate,
        certificate=node.certificate,
        key=node.key,
    )
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        shake_hands(server, client)


def test_a_kubeconfig_needs_no_other_file(certificates: Certificates, tmp_path: Path) -> None:
    text = render_kubeconfig(
        cluster="one",
        user="sluice-admin",
        server="https://127.0.0.1:20002",
        authority=certificates.authority.files.certificate,
        client=certificates.admin,
    )
    config = json.loads(text)
    assert config["current-context"] == "sluice-one"
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    assert str(certificates.authority.directory) not in text

import json
from pathlib import Path

import pytest

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.certificates import Certificates, create_certificates
from sluice.devcluster.components import (
    Kubeconfigs,
    Ports,
    command_api_server,
    command_controller_manager,
    command_etcd,
    command_scheduler,
)
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.shape import ClusterShape
from sluice.devcluster.specification import (
    STEP,
    ClusterSpecification,
    decode_event,
    encode_event,
)

PORTS = Ports(etcd=1, etcd_peer=2, api_server=3, controller_manager=4, scheduler=5)
KUBECONFIGS = Kubeconfigs(controller_manager=Path("/k/cm"), scheduler=Path("/k/s"))
STATE = StateDirectory(Path("/state"))


def binaries(etcd_version: tuple[int, ...] = (3, 4, 23)) -> Binaries:
    return Binaries(
        kube_apiserver=Path("/b/kube-apiserver"),
        kube_controller_manager=Path("/b/kube-controller-manager"),
        kube_scheduler=Path("/b/kube-scheduler"),
        kubectl=Path("/b/kubectl"),
        etcd=Path("/b/etcd"),
        etcd_version=etcd_version,
        kubernetes_source="here",
        etcd_source="there",
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return create_certificates(tmp_path_factory.mktemp("pki"))


def test_everything_listens_on_loopback_only(certificates: Certificates) -> None:
    etcd = command_etcd(binaries(), STATE, PORTS, certificates).arguments
    urls = [argument for argument in etcd if "-urls=" in argument]
    assert len(urls) == 4
    assert all("=https://127.0.0.1:" in url for url in urls)
    for command in (
        command_api_server(binaries(), STATE, PORTS, certificates, audit_policy=None),
        command_controller_manager(binaries(), STATE, PORTS, certificates, KUBECONFIGS),
        command_scheduler(binaries(), STATE, PORTS, KUBECONFIGS),
    ):
        assert "--bind-address=127.0.0.1" in command.arguments


def test_etcd_asks_every_client_for_a_certificate(certificates: Certificates) -> None:
    arguments = command_etcd(binaries(), STATE, PORTS, certificates).arguments
    assert "--client-cert-auth" in arguments
    assert "--peer-client-cert-auth" in arguments


def test_rights_are_checked_for_people_and_nodes(certificates: Certificates) -> None:
    command = command_api_server(binaries(), STATE, PORTS, certificates, audit_policy=None)
    assert "--authorization-mode=Node,RBAC" in command.arguments
    assert "--enable-admission-plugins=NodeRestriction" in command.arguments
    # Pod Security is on by default: nothing may switch it off.
    assert not any("disable-admission-plugins" in each for each in command.arguments)


def test_the_audit_log_is_off_unless_asked_for(certificates: Certificates) -> None:
    off = command_api_server(binaries(), STATE, PORTS, certificates, audit_policy=None)
    assert not any("audit" in each for each in off.arguments)
    policy = Path("/state/audit-policy.yaml")
    on = command_api_server(binaries(), STATE, PORTS, certificates, audit_policy=policy)
    assert "--audit-log-path=/state/audit.log" in on.arguments


@pytest.mark.parametrize(
    ("version", "expected"), [((3, 4, 23), False), ((3, 5, 0), True), ((3, 6, 16), True)]
)
def test_only_an_etcd_that_knows_the_switch_gets_it(
    certificates: Certificates, *, version: tuple[int, ...], expected: bool
) -> None:
    arguments = command_etcd(binaries(version), STATE, PORTS, certificates).arguments
    assert ("--unsafe-no-fsync" in arguments) is expected


def test_controllers_that_refuse_loopback_addresses_are_off(certificates: Certificates) -> None:
    command = command_controller_manager(binaries(), STATE, PORTS, certificates, KUBECONFIGS)
    (controllers,) = (each for each in command.arguments if each.startswith("--controllers="))
    assert controllers.startswith("--controllers=*,-endpointslice-controller,")


def test_a_specification_survives_the_pipe() -> None:
    specification = ClusterSpecification(
        root=Path("/state"),
        shape=ClusterShape(maia=1, gpu=2, system=3),
        binaries=binaries(),
        models=None,
        audit_log=True,
        start_seconds=7.5,
    )
    line = specification.encode()
    assert line.count(b"\n") == 1
    assert ClusterSpecification.decode(line) == specification


def test_events_keep_line_breaks_inside_one_line() -> None:
    line = encode_event(STEP, "a\nb")
    assert line.count(b"\n") == 1
    assert json.loads(line)
    assert decode_event(line) == (STEP, "a\nb")

"""Command lines of etcd and the control plane: pure functions from files and ports to arguments.

The supervisor starts what these return. Flags as of Kubernetes v1.36 and etcd 3.4 to 3.6.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.certificates import Certificates
from sluice.devcluster.directories import StateDirectory

HOST = "127.0.0.1"
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_ETCD_WITH_FSYNC_SWITCH = (3, 5)

_CONTROLLERS_OFF = (
    "endpointslice-controller",  # EndpointSlices refuse loopback addresses,
    "endpoints-controller",  # and nothing proxies Services here:
    "endpointslice-mirroring-controller",  # clients watch pods
    "node-ipam-controller",
)

AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the control plane listens on 127.0.0.1."""

    etcd: int
    etcd_peer: int
    api_server: int
    controller_manager: int
    scheduler: int


@dataclass(frozen=True, slots=True)
class Kubeconfigs:
    """Credentials of the components that call the API server."""

    controller_manager: Path
    scheduler: Path


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start: its name in logs and status, arguments, and what to add to its env."""

    name: str
    arguments: list[str]
    environment: dict[str, str]


def command_etcd(
    binaries: Binaries, state: StateDirectory, ports: Ports, certificates: Certificates
) -> Command:
    """Return how to start etcd.

    It asks its clients for certificates: whoever writes to etcd can have any program run as this
    user, and 127.0.0.1 is open to every user of the machine.
    """
    client = f"https://{HOST}:{ports.etcd}"
    peer = f"https://{HOST}:{ports.etcd_peer}"
    pki = certificates
    arguments = [
        str(binaries.etcd),
        "--name=default",
        f"--data-dir={state.etcd}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={pki.etcd_server.certificate}",
        f"--key-file={pki.etcd_server.key}",
        f"--trusted-ca-file={pki.etcd_authority.files.certificate}",
        "--client-cert-auth",
        f"--peer-cert-file={pki.etcd_server.certificate}",
        f"--peer-key-file={pki.etcd_server.key}",
        f"--peer-trusted-ca-file={pki.etcd_authority.files.certificate}",
        "--peer-client-cert-auth",
        "--auto-compaction-retention=1",
        "--quota-backend-bytes=4294967296",
    ]
    if binaries.etcd_version >= _ETCD_WITH_FSYNC_SWITCH:
        # The data are thrown away with the cluster: nothing is gained by waiting for the disk.
        arguments.append("--unsafe-no-fsync")
    machine = platform.machine()
    # etcd 3.4 refuses to start on ARM without being told that this is known.
    environment = {"ETCD_UNSUPPORTED_ARCH": "arm64"} if machine == "aarch64" else {}
    return Command("etcd", arguments, environment)


def command_api_server(
    binaries: Binaries,
    state: StateDirectory,
    ports: Ports,
    certificates: Certificates,
    *,
    audit_policy: Path | None,
) -> Command:
    """Return how to start the API server; with a policy file it writes an audit log."""
    pki = certificates
    arguments = [
        str(binaries.kube_apiserver),
        f"--etcd-servers=https://{HOST}:{ports.etcd}",
        f"--etcd-cafile={pki.etcd_authority.files.certificate}",
        f"--etcd-certfile={pki.etcd_client.certificate}",
        f"--etcd-keyfile={pki.etcd_client.key}",
        f"--bind-address={HOST}",
        f"--secure-port={ports.api_server}",
        # Never routed; a loopback address is refused here, and no endpoints are reconciled.
        "--advertise-address=10.255.255.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={pki.api_server.certificate}",
        f"--tls-private-key-file={pki.api_server.key}",
        f"--client-ca-file={pki.authority.files.certificate}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--service-account-issuer={_ISSUER}",
        f"--api-audiences={_ISSUER}",
        f"--service-account-key-file={pki.service_accounts.certificate}",
        f"--service-account-signing-key-file={pki.service_accounts.key}",
        f"--requestheader-client-ca-file={pki.front_proxy_authority.files.certificate}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki.front_proxy_client.certificate}",
        f"--proxy-client-key-file={pki.front_proxy_client.key}",
        f"--kubelet-client-certificate={pki.kubelet_client.certificate}",
        f"--kubelet-client-key={pki.kubelet_client.key}",
        f"--kubelet-certificate-authority={pki.authority.files.certificate}",
        "--kubelet-preferred-address-types=InternalIP,Hostname",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
        "--profiling=false",
    ]
    if audit_policy is not None:
        arguments += [f"--audit-policy-file={audit_policy}", f"--audit-log-path={state.audit_log}"]
    return Command("kube-apiserver", arguments, {})


def command_controller_manager(
    binaries: Binaries,
    state: StateDirectory,
    ports: Ports,
    certificates: Certificates,
    kubeconfigs: Kubeconfigs,
) -> Command:
    """Return how to start the controller manager."""
    authority = certificates.authority.files
    controllers = ",".join(["*", *(f"-{name}" for name in _CONTROLLERS_OFF)])
    arguments = [
        str(binaries.kube_controller_manager),
        *_client_flags(kubeconfigs.controller_manager, ports.controller_manager, qps=200),
        f"--cert-dir={state.pki / 'controller-manager-serving'}",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={certificates.service_accounts.key}",
        f"--root-ca-file={authority.certificate}",
        f"--cluster-signing-cert-file={authority.certificate}",
        f"--cluster-signing-key-file={authority.key}",
        f"--controllers={controllers}",
    ]
    return Command("kube-controller-manager", arguments, {})


def command_scheduler(
    binaries: Binaries, state: StateDirectory, ports: Ports, kubeconfigs: Kubeconfigs
) -> Command:
    """Return how to start the scheduler."""
    arguments = [
        str(binaries.kube_scheduler),
        *_client_flags(kubeconfigs.scheduler, ports.scheduler, qps=200),
        f"--cert-dir={state.pki / 'scheduler-serving'}",
    ]
    return Command("kube-scheduler", arguments, {})


def _client_flags(kubeconfig: Path, port: int, *, qps: int) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        "--leader-elect=false",
        f"--kube-api-qps={qps}",
        f"--kube-api-burst={2 * qps}",
    ]

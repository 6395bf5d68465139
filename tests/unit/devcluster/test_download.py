import contextlib
import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sluice.devcluster.binaries.download import Servers, download_etcd, download_kubernetes
from sluice.devcluster.binaries.programs import (
    ETCD_DOWNLOAD_VERSION,
    KUBERNETES_PROGRAMS,
    KUBERNETES_VERSION,
    find_architecture,
)
from sluice.devcluster.binaries.progress import SilentProgress
from sluice.devcluster.binaries.versions import read_etcd_version, read_kubernetes_version
from sluice.devcluster.errors import BinariesError

from .programs import render_version

BASE = f"/release/{KUBERNETES_VERSION}/bin/linux/{find_architecture()}"
ARCHIVE = f"etcd-{ETCD_DOWNLOAD_VERSION}-linux-{find_architecture()}"


class Publisher:
    """A server with the layout of the official ones; `files` may be changed."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = publisher.files.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        host, port = self.server.server_address[:2]
        self.servers = Servers(
            kubernetes=f"http://{host!s}:{port}/release",
            etcd=f"http://{host!s}:{port}/etcd",
            route_seconds=3.0,
        )


def publish() -> dict[str, bytes]:
    files = {}
    for name in KUBERNETES_PROGRAMS:
        text = render_version(name, KUBERNETES_VERSION)
        program = f"#!/bin/sh\necho '{text}'\n".encode()
        files[f"{BASE}/{name}"] = program
        files[f"{BASE}/{name}.sha256"] = hashlib.sha256(program).hexdigest().encode()
    etcd = b"#!/bin/sh\necho etcd Version: 3.6.16\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in (("etcd", etcd), ("etcdctl", b"other"), ("../evil", b"evil")):
            member = tarfile.TarInfo(f"{ARCHIVE}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive = buffer.getvalue()
    sums = f"{'0' * 64}  other.tar.gz\n{hashlib.sha256(archive).hexdigest()}  {ARCHIVE}.tar.gz\n"
    files[f"/etcd/{ETCD_DOWNLOAD_VERSION}/{ARCHIVE}.tar.gz"] = archive
    files[f"/etcd/{ETCD_DOWNLOAD_VERSION}/SHA256SUMS"] = sums.encode()
    return files


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher(publish())
    thread = threading.Thread(target=publisher.server.serve_forever, args=(0.01,))
    thread.start()
    yield publisher
    publisher.server.shutdown()
    publisher.server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "t").mkdir()
    return tmp_path / "t"


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.advances: list[tuple[int, int]] = []

    def begin(self, text: str) -> None:
        self.steps.append(text)

    def advance(self, done: int, total: int) -> None:
        self.advances.append((done, total))


def test_official_programs_are_downloaded_and_run(publisher: Publisher, target: Path) -> None:
    progress = Recorder()
    download_kubernetes(publisher.servers, target, progress)
    assert {read_kubernetes_version(target / name) for name in KUBERNETES_PROGRAMS} == {
        KUBERNETES_VERSION
    }
    assert len(progress.steps) == 4
    assert progress.advances[-1][0] == progress.advances[-1][1] > 0


def test_etcd_alone_is_taken_out_of_its_archive(publisher: Publisher, target: Path) -> None:
    download_etcd(publisher.servers, target, SilentProgress())
    assert read_etcd_version(target / "etcd") == (3, 6, 16)
    assert [path.name for path in target.iterdir()] == ["etcd"]
    assert not (target.parent / "evil").exists()


def test_a_changed_program_is_refused_and_removed(publisher: Publisher, target: Path) -> None:
    publisher.files[f"{BASE}/kubectl"] += b"# changed on the way\n"
    with pytest.raises(BinariesError, match=r"has the checksum .* published is"):
        download_kubernetes(publisher.servers, target, SilentProgress())
    assert not (target / "kubectl").exists()


def test_a_changed_archive_is_not_even_opened(publisher: Publisher, target: Path) -> None:
    publisher.files[f"/etcd/{ETCD_DOWNLOAD_VERSION}/{ARCHIVE}.tar.gz"] = b"not an archive"
    with pytest.raises(BinariesError, match="has the checksum"):
        download_etcd(publisher.servers, target, SilentProgress())
    assert not (target / "etcd").exists()


def test_a_broken_archive_with_its_checksum_is_a_sentence(
    publisher: Publisher, target: Path
) -> None:
    broken = b"not an archive"
    publisher.files[f"/etcd/{ETCD_DOWNLOAD_VERSION}/{ARCHIVE}.tar.gz"] = broken
    sums = f"{hashlib.sha256(broken).hexdigest()}  {ARCHIVE}.tar.gz\n".encode()
    publisher.files[f"/etcd/{ETCD_DOWNLOAD_VERSION}/SHA256SUMS"] = sums
    with pytest.raises(BinariesError, match="cannot be unpacked"):
        download_etcd(publisher.servers, target, SilentProgress())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{BASE}/kube-apiserver.sha256", "HTTP 404"),
        (f"{BASE}/kubectl", "broke off .HTTP 404"),
    ],
)
def test_what_is_missing_on_the_server_is_named(
    publisher: Publisher, target: Path, path: str, message: str
) -> None:
    del publisher.files[path]
    with pytest.raises(BinariesError, match=message):
        download_kubernetes(publisher.servers, target, SilentProgress())


def test_an_archive_without_a_published_checksum_is_not_downloaded(
    publisher: Publisher, target: Path
) -> None:
    publisher.files[f"/etcd/{ETCD_DOWNLOAD_VERSION}/SHA256SUMS"] = b"0000  other.tar.gz\n"
    with pytest.raises(BinariesError, match="does not name"):
        download_etcd(publisher.servers, target, SilentProgress())


def test_a_network_that_asks_for_a_login_first_is_a_sentence(
    publisher: Publisher, target: Path
) -> None:
    page = b"<html>\n <body>\n  Please log in.\n"
    publisher.files = dict.fromkeys(publisher.files, page)
    with pytest.raises(BinariesError, match="holds something else than a checksum"):
        download_kubernetes(publisher.servers, target, SilentProgress())
    with pytest.raises(BinariesError, match="does not name"):
        download_etcd(publisher.servers, target, SilentProgress())


def test_a_server_that_does_not_speak_http_is_a_sentence(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        servers = Servers(kubernetes=url, etcd=url, route_seconds=5.0)
        with pytest.raises(BinariesError, match=r"cannot be had .*SSH-2.0"):
            download_kubernetes(servers, target, SilentProgress())
        thread.join()


def test_a_silent_server_is_given_up_quickly(target: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        servers = Servers(kubernetes=url, etcd=url, route_seconds=0.2)
        with pytest.raises(BinariesError, match=r"did not answer|timed out"):
            download_kubernetes(servers, target, SilentProgress())

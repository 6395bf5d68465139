import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sluice.devcluster.binaries import debian, golang
from sluice.devcluster.binaries.cache import Cache
from sluice.devcluster.binaries.download import Servers
from sluice.devcluster.binaries.programs import KUBERNETES_VERSION, Binaries, find_architecture
from sluice.devcluster.binaries.resolution import Sources, resolve_binaries
from sluice.devcluster.errors import BinariesError
from sluice.devcluster.locks import acquire_lock

from .programs import write_etcd, write_kubernetes, write_program

NOWHERE = Servers(kubernetes="http://127.0.0.1:9", etcd="http://127.0.0.1:9", route_seconds=2.0)
PLATFORM = f"linux-{find_architecture()}"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def fill_cache(cache: Cache, etcd: str = "3.6.1") -> None:
    write_kubernetes(cache.root / "kubernetes" / KUBERNETES_VERSION / PLATFORM)
    write_etcd(cache.root / "etcd" / etcd / PLATFORM, etcd)


def sources(cache: Cache, *, user: Path | None = None, path: tuple[Path, ...] = ()) -> Sources:
    return Sources(
        user_directory=user,
        cache=cache,
        search_path=os.pathsep.join(map(str, path)),
        downloads=NOWHERE,
    )


@pytest.fixture
def without_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have building and unpacking refuse, as on a machine without Go, apt and network."""

    def refuse(reason: str) -> Callable[..., None]:
        def raise_it(*_: object) -> None:
            raise BinariesError(reason)

        return raise_it

    monkeypatch.setattr(golang, "build_kubernetes", refuse("Build: no Go here."))
    monkeypatch.setattr(debian, "unpack_etcd", refuse("Package: no apt-get here."))


def test_the_users_directory_comes_before_the_cache(tmp_path: Path, cache: Cache) -> None:
    fill_cache(cache)
    user = write_etcd(write_kubernetes(tmp_path / "mine", "v1.35.2"))
    found = resolve_binaries(sources(cache, user=user))
    assert found.kubectl == user / "kubectl"
    assert found.etcd == user / "etcd"
    assert "v1.35.2" in found.kubernetes_source
    assert found.etcd_version == (3, 5, 21)


def test_a_users_directory_may_hold_only_etcd_or_only_kubernetes(
    tmp_path: Path, cache: Cache
) -> None:
    fill_cache(cache)
    only_etcd = resolve_binaries(sources(cache, user=write_etcd(tmp_path / "e")))
    assert only_etcd.etcd == tmp_path / "e" / "etcd"
    assert only_etcd.kubectl.is_relative_to(cache.root)
    only_kubernetes = resolve_binaries(sources(cache, user=write_kubernetes(tmp_path / "k")))
    assert only_kubernetes.kubectl == tmp_path / "k" / "kubectl"
    assert only_kubernetes.etcd.is_relative_to(cache.root)


def test_bad_directories_of_the_user_are_named(tmp_path: Path, cache: Cache) -> None:
    fill_cache(cache)
    partial = tmp_path / "partial"
    write_program(partial / "kubectl", "x")
    mixed = write_kubernetes(tmp_path / "mixed", "v1.36.3")
    write_program(mixed / "kube-scheduler", "Kubernetes v1.35.0")
    strange = write_kubernetes(tmp_path / "strange")
    write_program(strange / "kube-apiserver", "hello")
    broken = write_kubernetes(tmp_path / "broken")
    (broken / "kubectl").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "missing": "there is no such directory",
        tmp_path / "empty": "it holds none of kube-apiserver",
        partial: "kube-apiserver, kube-controller-manager, kube-scheduler is missing",
        mixed: r"the versions differ .*kube-scheduler v1\.35\.0",
        write_kubernetes(tmp_path / "old", "v1.20.1"): "v1.20.1 is too old",
        write_etcd(tmp_path / "oldetcd", "3.3.9"): "is etcd 3.3.9, and 3.4 or later is needed",
        strange: "does not say its version but 'hello'",
        broken: "kubectl does not run on this machine",
    }
    for directory, message in cases.items():
        with pytest.raises(BinariesError, match=message):
            resolve_binaries(sources(cache, user=directory))


def test_the_cache_comes_before_path(tmp_path: Path, cache: Cache) -> None:
    fill_cache(cache)
    on_path = write_etcd(write_kubernetes(tmp_path / "bin"))
    found = resolve_binaries(sources(cache, path=(on_path,)))
    assert found.kube_apiserver.is_relative_to(cache.root)
    assert found.etcd_version == (3, 6, 1)


def test_the_newest_etcd_of_the_cache_is_taken(cache: Cache) -> None:
    fill_cache(cache, "3.4.23")
    fill_cache(cache, "3.10.0")
    fill_cache(cache, "3.9.1")
    (cache.root / "etcd" / "not-a-version" / PLATFORM).mkdir(parents=True)
    assert resolve_binaries(sources(cache)).etcd_version == (3, 10, 0)


def test_path_counts_when_all_four_are_of_our_version(tmp_path: Path, cache: Cache) -> None:
    dispatcher = tmp_path / "usr"
    write_program(dispatcher / "kubectl", '{"clientVersion": {"gitVersion": "v1.32.4-dispatcher"}}')
    good = write_etcd(write_kubernetes(tmp_path / "good"))
    found = resolve_binaries(sources(cache, path=(dispatcher, good)))
    assert found.kubectl == good / "kubectl"
    assert found.etcd == good / "etcd"


@pytest.mark.usefixtures("without_makers")
def test_a_stranger_on_path_is_not_mistaken_and_everything_tried_is_listed(
    tmp_path: Path, cache: Cache
) -> None:
    other = write_kubernetes(tmp_path / "other", "v1.32.4")
    with pytest.raises(BinariesError) as caught:
        resolve_binaries(sources(cache, path=(other,)))
    message = str(caught.value)
    assert f"PATH: {other} holds v1.32.4." in message
    assert "Download: http://127.0.0.1:9" in message
    assert "Connection refused" in message
    assert "Build: no Go here." in message
    assert "--binaries" in message
    assert "https://go.dev/dl" in message


@pytest.mark.usefixtures("without_makers")
def test_without_etcd_the_package_to_install_is_named(tmp_path: Path, cache: Cache) -> None:
    kubernetes = write_kubernetes(tmp_path / "k")
    old = write_etcd(tmp_path / "old", "3.3.1")
    with pytest.raises(BinariesError, match="apt install etcd-server") as caught:
        resolve_binaries(sources(cache, user=kubernetes, path=(old,)))
    assert "is etcd 3.3.1" in str(caught.value)
    assert "Package: no apt-get here." in str(caught.value)


def test_a_build_goes_into_the_cache_and_is_found_there(
    monkeypatch: pytest.MonkeyPatch, cache: Cache
) -> None:
    def build(_: Cache, __: str, target: Path, ___: object) -> None:
        write_kubernetes(target)

    def unpack(target: Path, _: object) -> None:
        write_etcd(target, "3.4.23")

    monkeypatch.setattr(golang, "build_kubernetes", build)
    monkeypatch.setattr(debian, "unpack_etcd", unpack)
    made = resolve_binaries(sources(cache))
    assert made.kubernetes_source == "built with Go"
    assert made.etcd_source == "from the distribution's package"
    monkeypatch.undo()
    found = resolve_binaries(sources(cache))
    assert found.kube_apiserver == made.kube_apiserver
    assert found.etcd == made.etcd
    assert not list(cache.root.glob("partial-*"))


def test_an_interrupted_build_leaves_nothing_that_counts(
    monkeypatch: pytest.MonkeyPatch, cache: Cache
) -> None:
    def interrupt(_: Cache, __: str, target: Path, ___: object) -> None:
        write_program(target / "kubectl", "half")
        raise KeyboardInterrupt

    monkeypatch.setattr(golang, "build_kubernetes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        resolve_binaries(sources(cache))
    assert cache.find_kubernetes() is None
    assert not list(cache.root.glob("partial-*"))
    lock = acquire_lock(cache.lock)
    assert lock is not None
    os.close(lock)


def test_a_second_process_waits_and_uses_what_the_first_has_made(cache: Cache) -> None:
    lock = acquire_lock(cache.lock)
    assert lock is not None
    steps: list[str] = []

    class Recorder:
        def begin(self, text: str) -> None:
            steps.append(text)

        def advance(self, done: int, total: int) -> None: ...

    found: list[Binaries] = []
    waiter = threading.Thread(
        target=lambda: found.append(resolve_binaries(sources(cache), Recorder()))
    )
    waiter.start()
    deadline = time.monotonic() + 10
    while not steps:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert steps == ["waiting for another sluice that prepares the same programs"]
    fill_cache(cache)
    os.close(lock)
    waiter.join(10)
    assert found[0].kube_apiserver.is_relative_to(cache.root)


def test_other_architectures_are_refused_with_a_sentence() -> None:
    assert find_architecture("aarch64") == "arm64"
    with pytest.raises(BinariesError, match="this machine is riscv64"):
        find_architecture("riscv64")

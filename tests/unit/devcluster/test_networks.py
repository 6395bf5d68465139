import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.devcluster.errors import ClusterError, NetworkExhaustedError
from sluice.devcluster.networks import (
    Network,
    acquire_network,
    choose_port,
    choose_ports,
    is_free,
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_each_cluster_gets_a_network_of_its_own_until_it_gives_it_back(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    first = acquire_network(directory, range(10, 12))
    second = acquire_network(directory, range(10, 12))
    assert [first.cidr, second.cidr] == ["127.10.0.0/16", "127.11.0.0/16"]
    assert second.node_prefix(3) == "127.11.3"
    with pytest.raises(NetworkExhaustedError, match="All loopback networks are taken"):
        acquire_network(directory, range(10, 12))
    first.release()
    third = acquire_network(directory, range(10, 12))
    assert third.second_octet == 10
    second.release()
    third.release()


def test_all_users_can_use_the_lock_directory(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    old = os.umask(0o077)
    try:
        network = acquire_network(directory)
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1777
    (lock,) = directory.iterdir()
    assert stat.S_IMODE(lock.stat().st_mode) == 0o644  # to lock it, reading is enough
    network.release()


def test_a_lock_that_cannot_be_opened_is_passed_over(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    directory.mkdir()
    (directory / "127.10.lock").symlink_to(tmp_path / "elsewhere")
    network = acquire_network(directory, range(10, 12))
    assert network.second_octet == 11
    assert not (tmp_path / "elsewhere").exists()
    network.release()


def test_a_file_in_place_of_the_lock_directory(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("")
    with pytest.raises(ClusterError, match="should be a directory of lock files"):
        acquire_network(tmp_path / "locks")


def test_ports_of_two_networks_never_overlap_and_occupied_ones_are_left_out() -> None:
    one, other = Network(10, -1), Network(11, -1)
    ports = choose_ports(one, 5)
    assert len(set(ports)) == 5
    assert not set(ports) & set(choose_ports(other, 5))
    with socket.create_server(("127.0.0.1", ports[0])):
        assert ports[0] not in choose_ports(one, 5)


def test_too_many_occupied_ports_are_named() -> None:
    with pytest.raises(ClusterError, match="are free, and 41 are needed"):
        choose_ports(Network(10, -1), 41)


def test_a_listener_on_all_addresses_occupies_every_loopback_address() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104
        port = server.getsockname()[1]
        assert not is_free("127.77.1.1", port)
        assert choose_port("127.77.1.1", port) != port


def test_the_preferred_port_is_taken_where_it_is_free(listener: socket.socket) -> None:
    taken = listener.getsockname()[1]
    assert not is_free("127.0.0.1", taken)
    assert choose_port("127.77.1.1", taken) == taken

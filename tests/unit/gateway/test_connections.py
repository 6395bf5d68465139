"""One client connection: who is cut off for reading nothing."""

import asyncio

import pytest

from sluice_gateway.connections import LimitedServer
from sluice_gateway.settings import Limits


class Transport:
    """Holds what its peer has not taken."""

    def __init__(self, left):
        self.left = left
        self.aborted = False

    def get_write_buffer_size(self):
        return self.left

    def abort(self):
        self.aborted = True


@pytest.mark.parametrize(
    ("left", "late", "cut_off"),
    [(100, 0.0, True), (100, 5.0, False), (99, 0.0, False), (0, 0.0, False)],
    ids=["reads nothing", "we stood still", "reads", "has read all"],
)
async def test_who_reads_nothing_is_cut_off_unless_we_stood_still(left, late, cut_off):
    server = LimitedServer(None, limits=Limits(slow_reader_seconds=60.0), log=None)
    connection, transport = server(), Transport(left)
    due = asyncio.get_running_loop().time() - late
    connection._look_at_reader(transport, 100, due)
    assert transport.aborted is cut_off
    watched = connection._reader_timer is not None
    assert watched is (not cut_off and left > 0)
    connection._stop_watching_reader()

"""Connections and the open files that they take."""

import resource
import subprocess
import sys

import pytest
import structlog

from sluice_gateway.openfiles import fit_connections
from sluice_gateway.settings import Limits


@pytest.mark.parametrize(
    ("files", "connections", "level"),
    [(1 << 20, 4096, "info"), (1024, 384, "warning"), (64, 1, "warning")],
)
def test_connections_are_as_many_as_there_are_files_for(files, connections, level):
    capture = structlog.testing.LogCapture()
    log = structlog.wrap_logger(None, processors=[capture])
    assert fit_connections(Limits(), files, log).connections == connections
    (line,) = capture.entries
    assert (line["limit"], line["connections"]) == (files, connections)
    assert line["log_level"] == level


@pytest.mark.parametrize(("soft", "hard"), [(128, 512), (256, 256)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft, hard):
    code = (
        "import resource; from sluice_gateway.openfiles import raise_limit;"
        "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(hard)] * 3

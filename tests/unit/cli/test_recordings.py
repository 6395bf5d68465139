"""`sluice recording` saves what an operator gives, whole or not at all."""

import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.main import sluice

LINES = b"".join(b'{"snapshot": {"at": %d.5}}\n' % at for at in (1_000_000, 1_000_002))


class FakeOperator(http.server.BaseHTTPRequestHandler):
    """Gives `body` as its recording."""

    body, status = LINES, 200
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeOperator]]:
    monkeypatch.setattr(FakeOperator, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeOperator) as server:
        # Looks every 10 ms, not every half second, whether it is to end.
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        monkeypatch.setattr(FakeOperator, "url", f"http://127.0.0.1:{server.server_port}", False)
        yield FakeOperator
        server.shutdown()


def save(operator, *arguments):
    command = ["recording", "--url", operator.url, *map(str, arguments)]
    return CliRunner().invoke(sluice, command)


def test_the_file_holds_what_was_given_and_the_text_says_from_when(operator, tmp_path: Path):
    result = save(operator, tmp_path / "passes")
    assert result.exit_code == 0
    assert (tmp_path / "passes").read_bytes() == LINES
    assert "2 passes" in result.output
    assert "from 1970-01-12T13:46:40.500Z to 1970-01-12T13:46:42.500Z" in result.output
    assert operator.asked == ["/recording"]


def test_a_time_is_handed_on_and_a_file_that_ends_in_gz_is_compressed(operator, tmp_path: Path):
    assert save(operator, tmp_path / "passes.gz", "--since", "2h").exit_code == 0
    assert gzip.decompress((tmp_path / "passes.gz").read_bytes()) == LINES
    assert operator.asked == ["/recording?since=2h"]


def test_a_time_that_is_none_is_refused(operator, tmp_path: Path):
    result = save(operator, tmp_path / "passes", "--since", "soon")
    assert result.exit_code == ExitCode.USAGE
    assert "'soon' must be a duration" in result.output
    assert operator.asked == []


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b"the disk\nis gone", "gives no recording (503: the disk"),
        (200, LINES[:-5], "ended in the middle of a pass"),
        (200, b"", "No operator has made a pass yet"),
    ],
)
def test_what_is_not_whole_leaves_the_file_as_it_was(
    operator, tmp_path: Path, monkeypatch, status, body, said
):
    monkeypatch.setattr(operator, "status", status)
    monkeypatch.setattr(operator, "body", body)
    (tmp_path / "passes").write_text("before")
    result = save(operator, tmp_path / "passes")
    assert isinstance(result.exception, CommandError)
    assert said in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["passes"]
    assert (tmp_path / "passes").read_text() == "before"

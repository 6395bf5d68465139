import click
import pytest

from sluice.cli.errors import CommandError, ExitCode, find_exit_code, run_command
from sluice.devcluster import errors


def fail_with(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidClusterError("x"), ExitCode.USAGE),
        (errors.ClusterNotRunningError("x"), ExitCode.NOT_RUNNING),
        (errors.ClusterConflictError("x"), ExitCode.CONFLICT),
        (errors.StateFormatError("x"), ExitCode.CONFLICT),
        (errors.BinariesError("x"), ExitCode.NO_BINARIES),
        (errors.ClusterStartError("x"), ExitCode.START_FAILED),
        (errors.NodeError("x"), ExitCode.NODE_REFUSED),
        (errors.NetworkExhaustedError("x"), ExitCode.FAILED),
        (CommandError("x", ExitCode.NOT_READY), ExitCode.NOT_READY),
        (ZeroDivisionError("x"), ExitCode.INTERNAL),
    ],
)
def test_every_error_has_its_code(error: Exception, code: ExitCode) -> None:
    assert find_exit_code(error) is code


def test_an_error_is_a_sentence_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command(fail_with(errors.NodeError("There is no node 'maia-9'.")), [])
    out, err = capsys.readouterr()
    assert (code, out, err) == (ExitCode.NODE_REFUSED, "", "Error: There is no node 'maia-9'.\n")


def test_a_defect_says_so_and_shows_its_traceback_only_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLUICE_DEBUG", raising=False)
    assert run_command(fail_with(ZeroDivisionError("oops")), []) == ExitCode.INTERNAL
    message = capsys.readouterr().err
    assert "defect of Sluice (ZeroDivisionError: oops)" in message
    assert "Traceback" not in message
    monkeypatch.setenv("SLUICE_DEBUG", "1")
    run_command(fail_with(ZeroDivisionError("oops")), [])
    assert "Traceback" in capsys.readouterr().err


def test_what_the_system_refuses_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fail_with(PermissionError(13, "Permission denied", "/x")), []) == 1
    assert "The system refused something: [Errno 13] Permission denied: '/x'." in (
        capsys.readouterr().err
    )


def test_interruption_has_the_code_shells_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fail_with(KeyboardInterrupt()), []) == ExitCode.INTERRUPTED
    assert "Interrupted" in capsys.readouterr().err


def test_a_wrong_command_line_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fail_with(ValueError()), ["--nonsense"]) == ExitCode.USAGE
    assert "No such option '--nonsense'" in capsys.readouterr().err


def test_a_command_may_end_with_a_code_of_its_own() -> None:
    @click.command()
    def command() -> int:
        return 12

    assert run_command(command, []) == 12
    assert run_command(fail_with(click.exceptions.Exit(5)), []) == 5

"""How commands end: every exit code, and how an error becomes a sentence.

Commands raise; `main` catches here. Nothing else prints an error or calls `sys.exit`.
"""

import enum
import os
import sys
import traceback

import click


class ExitCode(enum.IntEnum):
    """What the exit codes of `sluice` mean. `cluster kubectl` ends with kubectl's own."""

    OK = 0
    FAILED = 1
    """Something went wrong that has no code of its own."""
    USAGE = 2
    """The command line is wrong: an unknown option, a name no cluster can have."""
    NOT_RUNNING = 3
    """No cluster of that name is running."""
    CONFLICT = 4
    """A cluster of that name is there and is not what was asked for."""
    NO_BINARIES = 5
    """The programs of the control plane are neither there nor to be had."""
    START_FAILED = 6
    """The control plane or a node did not come up."""
    NODE_REFUSED = 7
    """No such node, or it is not in a state in which that can be done."""
    NOT_READY = 8
    """What was asked for is there and not ready: try again."""
    INVALID_RUN = 9
    """The demo ran, but computing was slower than the emulated devices: it says nothing."""
    NO_PARITY = 10
    """Two accelerator classes differ by more than they may, or it cannot be told."""
    INTERNAL = 70
    """A defect of Sluice; `SLUICE_DEBUG=1` shows where."""
    INTERRUPTED = 130
    """Ended by Ctrl-C; what was begun was cleaned up."""


class CommandError(Exception):
    """A command cannot do what was asked for; the message is for its user."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        """Carry a sentence and the exit code."""
        super().__init__(message)
        self.code = code


def find_exit_code(error: Exception) -> ExitCode:
    """Return the exit code of an error that was raised for a user."""
    # Imported here: it is needed only when something has gone wrong.
    from sluice.devcluster import errors  # noqa: PLC0415

    if isinstance(error, CommandError):
        return error.code
    codes: tuple[tuple[type[Exception], ExitCode], ...] = (
        (errors.InvalidClusterError, ExitCode.USAGE),
        (errors.ClusterNotRunningError, ExitCode.NOT_RUNNING),
        (errors.ClusterConflictError, ExitCode.CONFLICT),
        (errors.StateFormatError, ExitCode.CONFLICT),
        (errors.BinariesError, ExitCode.NO_BINARIES),
        (errors.ClusterStartError, ExitCode.START_FAILED),
        (errors.NodeError, ExitCode.NODE_REFUSED),
        (errors.ClusterError, ExitCode.FAILED),
    )
    for kind, code in codes:
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


def run_command(command: click.Command, arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; errors go to standard error as sentences.

    A command that ends well returns nothing, or an exit code of its own.
    """
    try:
        result = command.main(args=arguments, prog_name="sluice", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code  # 2 for a wrong command line, as above
    except (KeyboardInterrupt, click.Abort):
        _print_error("Interrupted; nothing was left running.")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`sluice … | head`); nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001  # the one place where errors end
        return _report(error)
    return result if isinstance(result, int) else ExitCode.OK


def _report(error: Exception) -> ExitCode:
    code = find_exit_code(error)
    if os.environ.get("SLUICE_DEBUG"):
        traceback.print_exception(error)
    if code is ExitCode.INTERNAL and not isinstance(error, OSError):
        _print_error(
            f"This is a defect of Sluice ({type(error).__name__}: {error}). Run the command again "
            "with SLUICE_DEBUG=1 in the environment to see where."
        )
        return code
    if isinstance(error, OSError):
        _print_error(f"The system refused something: {error}.")
        return ExitCode.FAILED
    _print_error(str(error))
    return code


def _print_error(message: str) -> None:
    click.echo(f"Error: {message}", err=True)

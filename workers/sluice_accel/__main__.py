"""`python -m sluice_accel`: compare the emulated devices with what is published of real ones."""

import argparse
import json
import signal

from sluice_accel.document import render_document
from sluice_accel.report import dump_validation, render_validation
from sluice_accel.validation import cross_validate


def main() -> int:
    """Run the command; 1 when a checked file is stale."""
    parser = argparse.ArgumentParser(prog="python -m sluice_accel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    validate = commands.add_parser("validate", help="print tables of errors, cross-validated")
    validate.add_argument("--json", metavar="FILE", help="write everything to a file, too")
    document = commands.add_parser("document", help="write docs/accelerators.md")
    document.add_argument("file", metavar="FILE")
    document.add_argument("--check", action="store_true", help="compare only; exit 1 if it differs")
    chosen = parser.parse_args()
    found = cross_validate()
    if chosen.command == "validate":
        print(render_validation(found))  # noqa: T201
        if chosen.json:
            with open(chosen.json, "w", encoding="utf-8") as file:  # noqa: PTH123 - see import rules
                json.dump(dump_validation(found), file, indent=1)
                file.write("\n")
        return 0
    return write_document(chosen.file, render_document(found), check=chosen.check)


def write_document(path: str, text: str, *, check: bool) -> int:
    """Write the text, or say 1 if the file has another."""
    if check:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - see import rules
            stale = file.read() != text
        if stale:
            print(f"stale: {path}; run `make generate` and commit")  # noqa: T201
        return int(stale)
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - see import rules
        file.write(text)
    return 0


if __name__ == "__main__":
    # Whose reader leaves (`… | head`) ends as other tools do, without a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())

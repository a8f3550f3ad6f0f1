"""The commands, each a thin shell over a function of the library.

Nothing heavy is imported until a command runs, so that `--help` answers at once.
"""

import io
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from bench.cli import components, db, doctor, report, run, serve, status, stop, tune
from bench.cli.context import classified, command

EPILOG = """\b
Examples:
  python bench.py run --preset tiny
  python bench.py run --preset tiny --routers soft_moe,mine --plugin mine.py
  python bench.py report
"""

app = typer.Typer(
    help="Benchmark harness and results database for Mixture-of-Experts routers in vision models.",
    epilog=EPILOG,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run, "plan": run.plan, "tune": tune.tune, "stop": stop.stop,
    "report": report.report, "serve": serve.serve, "status": status.status, "why": status.why,
    "list": components.list_components, "show": components.show, "routers": components.routers,
    "new": components.new, "check": components.check, "doctor": doctor.doctor,
}  # fmt: skip
for name, function in COMMANDS.items():
    command(app, name)(function)
db.add_to(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done; 1 something failed; 2 the request was wrong; 130 Ctrl-C.

    An unforeseen error is the bench's own fault: the message says so and names the file of its
    traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # `?` for what the terminal or file cannot show
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_empty(command_line)
        status = app(command_line, prog_name="bench.py", standalone_mode=False)
    except Exception as error:
        if "--debug" in command_line:
            traceback.print_exc()
        sys.exit(_report(classified(error, home=None)))
    sys.exit(status if isinstance(status, int) else 0)


def _refuse_empty(command_line: Sequence[str]) -> None:
    """Refuse an empty argument such as `--study ""`: it does not ask for the default."""
    for place, text in enumerate(command_line):
        option, equals, value = text.partition("=")
        if not text.strip():
            before = command_line[place - 1] if place else ""
            what = before if before.startswith("--") else "an argument"
        elif option.startswith("--") and equals and not value.strip():
            what = option
        else:
            continue
        raise typer.BadParameter(f"{what} is empty: give it a value or leave it out")


def _report(error: Exception) -> int:
    """Print one message on stderr; return the exit status."""
    # The module that defines this type differs between releases of typer.
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error)
        return 2
    if hasattr(error, "format_message"):  # typer's own, about options and arguments
        print(f"error: {error.format_message()}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    print(f"error: {error}", file=sys.stderr)
    return _status_in_array(error) or int(getattr(error, "exit_status", 1))


def _status_in_array(error: Exception) -> int | None:
    """Return the exit status of an array's worker that cannot reach the database, else None."""
    from results.text import StoreError

    if not isinstance(error, StoreError) and not isinstance(error.__cause__, StoreError):
        return None
    from bench.execute import RESUMABLE, in_array  # takes seconds if nothing is loaded yet

    return RESUMABLE if in_array() else None

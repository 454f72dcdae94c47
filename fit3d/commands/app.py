"""The command line: which commands there are, and how each way of ending becomes an exit code.

Exit codes: 0 all done; 1 some photo could not be fitted (the others are done and reported); 2 wrong usage or
configuration; 130 interrupted.

Nothing heavy is imported here or at the top of a command's module, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

import fit3d
from fit3d.commands.annotate import models_annotate_command
from fit3d.commands.arkit import models_arkit_command
from fit3d.commands.batch import batch_command, report_command
from fit3d.commands.console import debug, open_closed_streams, print_error, unexpected, with_hint
from fit3d.commands.doctor import doctor_command
from fit3d.commands.evaluate import evaluate_parts_command
from fit3d.commands.evaluate_compare import evaluate_compare_command
from fit3d.commands.evaluate_geometry import evaluate_geometry_command
from fit3d.commands.evaluate_losses import evaluate_losses_command
from fit3d.commands.evaluate_parser import evaluate_parser_command
from fit3d.commands.evaluate_plausibility import evaluate_plausibility_command
from fit3d.commands.evaluate_realy import evaluate_realy_command
from fit3d.commands.evaluate_report import evaluate_report_command
from fit3d.commands.fit import fit_command
from fit3d.commands.models import (
    models_add_command,
    models_info_command,
    models_list_command,
    models_pull_command,
    models_remove_command,
)
from fit3d.commands.observe import observe_command
from fit3d.commands.realy_keypoints import models_realy_keypoints_command
from fit3d.commands.synthesise import synthesise_command
from fit3d.commands.transfer import models_transfer_command
from fit3d.commands.view import view_command
from fit3d.commands.weights import weights_list_command, weights_pull_command, weights_verify_command
from fit3d.errors import Fit3dError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# typer brings its own copy of click or uses the installed one, by version; this is the base of its usage errors
_ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="fit3d",
    help="Fits a 3D morphable face model to photos by optimisation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)
models_app = typer.Typer(help="The face models that can be fitted.", no_args_is_help=True, context_settings=_HELP)
weights_app = typer.Typer(
    help="The weights of landmark detectors and face parsers.", no_args_is_help=True, context_settings=_HELP
)
evaluate_app = typer.Typer(help="Measures how good fits are.", no_args_is_help=True, context_settings=_HELP)

app.command("fit")(fit_command)
app.command("batch")(batch_command)
app.command("report")(report_command)
app.command("synthesise")(synthesise_command)
app.command("observe")(observe_command)
app.command("view")(view_command)
app.add_typer(models_app, name="models")
models_app.command("list")(models_list_command)
models_app.command("info")(models_info_command)
models_app.command("add")(models_add_command)
models_app.command("pull")(models_pull_command)
models_app.command("remove")(models_remove_command)
models_app.command("annotate")(models_annotate_command)
models_app.command("arkit")(models_arkit_command)
models_app.command("transfer")(models_transfer_command)
models_app.command("realy-keypoints")(models_realy_keypoints_command)
app.add_typer(weights_app, name="weights")
weights_app.command("list")(weights_list_command)
weights_app.command("pull")(weights_pull_command)
weights_app.command("verify")(weights_verify_command)
app.add_typer(evaluate_app, name="evaluate")
evaluate_app.command("parts")(evaluate_parts_command)
evaluate_app.command("parser")(evaluate_parser_command)
evaluate_app.command("geometry")(evaluate_geometry_command)
evaluate_app.command("losses")(evaluate_losses_command)
evaluate_app.command("plausibility")(evaluate_plausibility_command)
evaluate_app.command("realy")(evaluate_realy_command)
evaluate_app.command("compare")(evaluate_compare_command)
evaluate_app.command("report")(evaluate_report_command)
app.command("doctor")(doctor_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fit3d {fit3d.__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line with `arguments` (default: those of the process) and returns the exit code."""
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except Fit3dError as error:
        print_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:  # typer makes the second of the first
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # the reader of our output has gone, as in `fit3d ... | head`; keep Python from saying so once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED
    except _ClickException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        message = message.replace(": Value error, ", ": ")  # some versions of typer quote pydantic
        if message:  # empty where the help was shown instead
            print_error(with_hint(message, sys.argv[1:] if arguments is None else arguments))
        return EXIT_USAGE
    except Exception as error:
        print_error(unexpected(error))
        return EXIT_USAGE
    if code == EXIT_INTERRUPTED:  # by some versions of typer returned, by others raised
        print("interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


def run() -> None:
    """What the installed command `fit3d` calls: `main` with the process set up for it."""
    open_closed_streams()
    if not debug() and not sys.warnoptions:
        warnings.simplefilter("ignore")  # of packages, to their programmers
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())

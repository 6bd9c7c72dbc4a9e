"""The command line: its commands, and one line and an exit status for each error."""

import errno
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from brainfeat._version import __version__
from brainfeat.cli.bids import run_bids
from brainfeat.cli.compare import compare
from brainfeat.cli.convert import convert
from brainfeat.cli.demo import demo
from brainfeat.cli.embed import embed
from brainfeat.cli.finetune import finetune
from brainfeat.cli.info import info
from brainfeat.cli.log import copy_to_file
from brainfeat.cli.merge import merge
from brainfeat.cli.messages import show_own_messages
from brainfeat.cli.options import CommandOfLabels
from brainfeat.cli.predict import predict
from brainfeat.cli.pretrain import pretrain
from brainfeat.cli.report import report
from brainfeat.cli.segment import segment_app
from brainfeat.cli.simulate import simulate
from brainfeat.exceptions import BrainfeatError
from brainfeat.subjects.failures import one_line

__all__ = ["app", "main"]

_ARGUMENTS = "brainfeat.arguments"
_USAGE, _INTERRUPTED, _TERMINATED = 2, 130, 143  # exit statuses


class _TerminatedError(KeyboardInterrupt):
    """The process received SIGTERM."""


class _Commands(TyperGroup):
    """Commands that report an error as one line, without a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = [*args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        command = shlex.join(["brainfeat", *ctx.meta[_ARGUMENTS]])
        with show_own_messages(command=command):
            return self._invoke_or_fail(ctx)

    def _invoke_or_fail(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrainfeatError as error:
            _fail(str(error), _USAGE)
        except KeyboardInterrupt as error:
            terminated = isinstance(error, _TerminatedError)
            status = _TERMINATED if terminated else _INTERRUPTED
            _fail(str(error) or "interrupted.", status)
        except OSError as error:
            if error.errno == errno.EPIPE:  # as in "brainfeat info | head -1"
                raise
            reason = error.strerror or str(error)
            if error.filename:
                reason = f"{error.filename}: cannot be read or written ({reason})."
            _fail(reason, _USAGE)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(embed)
app.command("bids", cls=CommandOfLabels)(run_bids)
app.command()(merge)
app.command()(report)
app.command()(compare)
app.add_typer(segment_app, name="segment")
app.command()(finetune)
app.command()(predict)
app.command()(pretrain)
app.command()(convert)
app.command()(info)
app.command()(simulate)
app.command()(demo)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminate)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        # Standard error is None where it is closed, as some schedulers start jobs.
        sys.stderr = sys.stderr or nowhere
        app(prog_name="brainfeat")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"brainfeat {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Turn brain MRI into features."""


def _terminate(_number: int, _frame: object) -> None:
    raise _TerminatedError


def _fail(message: str, status: int) -> NoReturn:
    line = f"error: {one_line(message)}"
    typer.echo(line, err=True)
    copy_to_file(line)
    raise typer.Exit(status)

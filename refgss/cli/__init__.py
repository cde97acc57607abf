"""The command line.  Every error is one sentence and an exit code:

0 conforms, 1 does not, 2 usage, 3 the candidate could not start or broke the protocol, 4 vectors
are damaged or too few cases ran, 5 a waiver is stale, 70 a defect of refgss itself.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import click
from click.exceptions import Exit, NoArgsIsHelpError

from refgss import __version__
from refgss.cli import terminal
from refgss.cli.accuracy import calibrate, estimate
from refgss.cli.bench import bench
from refgss.cli.check import check
from refgss.cli.convert import import_, quantize
from refgss.cli.evaluate import evaluate_
from refgss.cli.exits import DEFECT, USAGE, ExitError, code_of, sentence_of
from refgss.cli.generate import generate
from refgss.cli.info import info
from refgss.cli.reports import diff, report, verify
from refgss.cli.serve import serve
from refgss.cli.spec import spec
from refgss.cli.tasks import score
from refgss.cli.train import train
from refgss.cli.vectors import vectors


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="refgss")
def commands() -> None:
    """The executable standard for gated state-space (GSS) sequence layers."""


for command in (check, spec, vectors, report, diff, verify, info, bench, train):
    commands.add_command(command)
for command in (generate, serve, evaluate_, score, calibrate, estimate, quantize, import_):
    commands.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # children end too
    open_streams()
    sys.exit(run(arguments))


def open_streams() -> None:
    """Closed standard streams become empty ones, and what a terminal cannot show is spelt out."""
    for descriptor, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, descriptor)  # to itself where it is the lowest that was free
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))
        if mode == "w":
            getattr(sys, name).reconfigure(errors="backslashreplace")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    code = code_after(arguments)
    try:
        sys.stdout.flush()
    except OSError as e:  # what was buffered could not be written
        terminal.discard(sys.stdout.fileno())
        if not isinstance(e, BrokenPipeError):
            terminal.complain(f"refgss: {sentence_of(e)}")
            return USAGE
    return code


def code_after(arguments: list[str] | None) -> int:
    """Run the command line; say what went wrong in one sentence."""
    try:
        if "_REFGSS_COMPLETE" in os.environ:  # the shell asks for completions
            commands.main(arguments, prog_name="refgss")
        given = sys.argv[1:] if arguments is None else arguments
        with commands.make_context("refgss", list(given)) as context:
            commands.invoke(context)
        return 0
    except Exit as e:  # after --help and --version
        return e.exit_code
    except BrokenPipeError:  # `refgss spec --list | head`
        terminal.discard(1)
        return 0
    except click.UsageError as e:
        if isinstance(e, NoArgsIsHelpError):
            e.show()
        else:
            terminal.complain(usage_of(e))
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        terminal.complain("interrupted")
        return 130
    except ExitError as e:
        return e.code
    except Exception as e:
        if (code := code_of(e)) is not None:
            terminal.complain(f"refgss: {sentence_of(e)}")
            return code
        return defect(e)


def usage_of(e: click.UsageError) -> str:
    """A wrong command line in one sentence, and where to read what is right."""
    command = e.ctx.command_path if e.ctx else "refgss"
    if type(e) is click.BadParameter:
        given = f" {e.param.opts[0]}" if isinstance(e.param, click.Option) else ""
        return f"{command}{given}: {e.message.rstrip('.')}"
    return f"{command}: {e.format_message().rstrip('.')}; see `{command} --help`"


def defect(e: Exception) -> int:
    """An exception that nobody foresaw: a sentence, and the traceback for those who ask for it."""
    if "REFGSS_TRACEBACK" in os.environ:
        traceback.print_exception(e)
    where = traceback.extract_tb(e.__traceback__)[-1]
    terminal.complain(
        f"refgss: a defect of refgss itself, {type(e).__name__} in {where.name}: {e}; please "
        "report it with what the command prints under REFGSS_TRACEBACK=1"
    )
    return DEFECT

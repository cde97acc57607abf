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
from click.exceptions import NoArgsIsHelpError

from refgss import __version__
from refgss.cli.bench import bench
from refgss.cli.check import check
from refgss.cli.convert import import_, quantize
from refgss.cli.evaluate import evaluate_
from refgss.cli.exits import DEFECT, USAGE, ExitError, code_of
from refgss.cli.generate import generate
from refgss.cli.info import info
from refgss.cli.reports import diff, report, verify
from refgss.cli.spec import spec
from refgss.cli.train import train
from refgss.cli.vectors import vectors


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="refgss")
def commands() -> None:
    """The executable standard for gated state-space (GSS) sequence layers."""


for command in (check, spec, vectors, report, diff, verify, info, bench, train):
    commands.add_command(command)
for command in (generate, evaluate_, quantize, import_):
    commands.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # children end too
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    try:
        result = commands.main(arguments, prog_name="refgss", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as e:
        if isinstance(e, NoArgsIsHelpError):
            e.show()
        else:
            click.echo(usage_of(e), err=True)
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # `refgss spec --list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except ExitError as e:
        return e.code
    except Exception as e:
        if (code := code_of(e)) is not None:
            click.echo(f"refgss: {sentence_of(e)}", err=True)
            return code
        return defect(e)


def usage_of(e: click.UsageError) -> str:
    """A wrong command line in one sentence, and where to read what is right."""
    command = e.ctx.command_path if e.ctx else "refgss"
    if type(e) is click.BadParameter:
        given = f" {e.param.opts[0]}" if isinstance(e.param, click.Option) else ""
        return f"{command}{given}: {e.message.rstrip('.')}"
    return f"{command}: {e.format_message().rstrip('.')}; see `{command} --help`"


def sentence_of(e: Exception) -> str:
    if isinstance(e, MemoryError):
        return "there is not enough memory for this: choose a smaller model, or a shorter text"
    if isinstance(e, OSError):
        return f"{e.filename} cannot be used: {e.strerror}"
    return str(e)


def defect(e: Exception) -> int:
    """An exception that nobody foresaw: a sentence, and the traceback for those who ask for it."""
    if "REFGSS_TRACEBACK" in os.environ:
        traceback.print_exception(e)
    where = traceback.extract_tb(e.__traceback__)[-1]
    click.echo(
        f"refgss: a defect of refgss itself, {type(e).__name__} in {where.name}: {e}; please "
        "report it with what the command prints under REFGSS_TRACEBACK=1",
        err=True,
    )
    return DEFECT

"""The command `rank-xmodal`: every verb is registered here, errors and exit codes are dealt with here."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import click

import rank_xmodal
from experiments.cli import checks, data, hub, index, runs, shell, studies, use
from experiments.cli.terminal import echo
from rank_xmodal.errors import UserError

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(context_settings=_HELP)
@click.version_option(package_name="rank-xmodal")
def cli() -> None:
    """Learn to rank over frozen CLIP embeddings.

    embed (or import) once, then train; evaluate, compare and search use what was trained.
    """


_OURS = Path(rank_xmodal.__file__).parent
_format_warning = warnings.formatwarning

for module in (data, runs, index, use, studies, checks, hub, shell):
    for command in module.COMMANDS:
        cli.add_command(command)


def _our_warning(message: Warning | str, category: type[Warning], filename: str, *where: Any, **named: Any) -> str:
    """Return a warning as it is printed: one of ours says what happened, and not in which line of which file."""
    if category is UserWarning and _OURS in Path(filename).parents:
        return f"rank-xmodal: {message}\n"
    return _format_warning(message, category, filename, *where, **named)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: 0, 1 where a check fails, 2 for what the user can mend, 130 for Ctrl-C."""
    # Python would look for old garbage in all of torch, while importing it and at the end: 0.7 s, for nothing. Young
    # garbage is collected as ever.
    gc.set_threshold(700, 10, 1_000)
    atexit.register(gc.freeze)
    warnings.formatwarning = _our_warning
    try:
        cli.main(arguments, prog_name="rank-xmodal", standalone_mode=False)
    except UserError as error:
        echo(f"rank-xmodal: {error}", err=True)
        raise SystemExit(2) from None
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        echo(said.getvalue(), err=True, nl=False)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, click.Abort):
        echo("rank-xmodal: interrupted. Run the same command to go on.", err=True)
        raise SystemExit(130) from None
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 20) : error.end + 20]
        echo(f"rank-xmodal: {part!r}: a name or path that is no UTF-8. Rename it, then run again.", err=True)
        raise SystemExit(2) from None
    except MemoryError:
        echo("rank-xmodal: the memory is full. Close what else runs, or take a smaller set or model.", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read our output has gone, as `| head` does
            sys.stderr.close()
            raise SystemExit(0) from None
        place, full = error.filename or "files", error.errno == errno.ENOSPC
        why = "the disk is full. Free some space" if full else f"{error.strerror or error}. See that it can be used"
        echo(f"rank-xmodal: {place}: {why}, then run again.", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()

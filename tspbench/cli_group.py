"""How every command ends: errors as sentences, exit codes, and one voice for several processes."""

import re
import sys
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from typing import Any, Final

import typer
from typer.core import TyperGroup

from tspbench import ranks, watch
from tspbench.errors import UserError

# What typer raises for an unknown option, command or value; of its own classes only the heir is public.
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]


# What several processes do together; everything else is done by the first of them.
_TOGETHER: Final = ("demo", "run", "pretrain", "extract", "evaluate")


class Group(TyperGroup):
    """Turns a user's mistake into one sentence on stderr and exit code 2, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        """Invoke the command in this process, or its part of it in each of several."""
        try:
            ranks.from_launcher()
            return self._invoke_together(ctx) if ranks.several() else super().invoke(ctx)
        except UserError as error:
            raise _ended(error, f"Error: {error}", 2) from error
        except _USAGE_ERROR as error:
            command = " ".join(["tspbench", *(error.ctx.command_path.split()[1:] if error.ctx else [])])
            problem = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
            problem = re.sub(r"\. Did you mean (.*\?)$", r" (did you mean \1)", problem)
            raise _ended(error, f"Error: {problem}; see `{command} --help`.", 2) from error
        except KeyboardInterrupt as error:
            raise _ended(error, "Interrupted: what was finished is kept.", 130) from error
        except typer.Exit:
            raise
        except Exception as error:
            if ranks.several():
                raise _ended(error, f"{type(error).__name__}: {error}", 1) from error
            raise

    def _invoke_together(self, ctx: Any) -> Any:
        """Invoke a command in each of several processes; the first one alone talks to people."""
        invoke = super().invoke

        def code() -> int:
            try:
                invoke(ctx)
            except typer.Exit as end:
                return int(end.exit_code)
            return 0

        watch.begin()
        with nullcontext() if ranks.is_first() else redirect_stdout(StringIO()):
            ended = code() if ctx._protected_args[0] in _TOGETHER else ranks.by_first(code)
        watch.finish()
        if ended:
            raise typer.Exit(ended)
        return None


def _ended(error: BaseException, sentence: str, code: int) -> typer.Exit:
    """Say why the command ends."""
    if ranks.several():
        watch.fail(error, sentence, code)
    print(sentence, file=sys.stderr)
    return typer.Exit(code)

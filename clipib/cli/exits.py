"""How every command ends: a UserError becomes one panel and exit 2, a bug a traceback and exit 70."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import traceback

import typer
from typer.core import TyperGroup

from clipib.errors import UserError

UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA error: out of memory", "ALLOC_FAILED", "can't allocate memory")
USER_ERROR, IN_PART, BUG, INTERRUPTED, TERMINATED = 2, 3, 70, 130, 143


class _Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that what is in hand is put away."""


class ExitCodeGroup(TyperGroup):
    """Turns whatever a command raises into the exit codes that the documentation promises."""

    def invoke(self, ctx):
        try:
            with _sigterm_raises():
                return super().invoke(ctx)
        except UserError as error:
            show_error(error)
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            _say("interrupted; what was finished is on disk")
            raise typer.Exit(INTERRUPTED) from None
        except _Terminated:
            _say("terminated; what was finished is on disk")
            raise typer.Exit(TERMINATED) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("typer", "click"):
                raise
            if (mendable := _as_user_error(error)) is not None:
                show_error(mendable)
                raise typer.Exit(USER_ERROR) from None
            traceback.print_exc()
            _say("this is a bug in clipib, or a broken installation; please report it with the lines above")
            raise typer.Exit(BUG) from None


def show_error(error: UserError) -> None:
    """One panel on stderr; plain text where there is no terminal wide enough to need one."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    body = Text(error.message)
    if error.hint:
        body.append("\n\n" + error.hint, style="cyan")
    Console(stderr=True, highlight=False).print(Panel(body, title="Error", title_align="left", border_style="red"))


def _as_user_error(error: Exception) -> UserError | None:
    """Trouble with the machine that the user can mend: memory and disk."""
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return UserError(f"'{error.filename}': {error.strerror}.", hint="Name another place, or mend this one.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" ('{error.filename}')" if error.filename else ""
        return UserError(f"The disk is full{place}.", hint="Free some space, or name another --out or --cache-dir.")
    if isinstance(error, MemoryError) or any(sign in f"{type(error).__name__} {error}" for sign in OUT_OF_MEMORY):
        return UserError(
            f"Out of memory: {str(error).splitlines()[0] if str(error) else 'no details'}", hint="Lower --batch-size."
        )
    if "No space left on device" in str(error):
        return UserError("The disk is full.", hint="Free some space, or name another --out or --cache-dir.")
    return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _sigterm_raises():
    def handler(*_):
        raise _Terminated

    try:
        old = signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)

"""The command line: `icf COMMAND`, and what becomes of errors. The commands are in cli/."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from icf_avs.cli.parser import build_parser
from icf_avs.console import VERBOSE, set_verbosity, verbosity
from icf_avs.errors import UserError
from icf_avs.interrupts import Interrupted

_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _Terminated(KeyboardInterrupt):
    """A signal asked the process to end: it cleans up as after Ctrl-C."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 (the user can fix it), 130, 141 or 143."""
    args = build_parser().parse_args(argv)
    args.command_line = sys.argv[1:] if argv is None else argv
    set_verbosity(args.verbosity)
    try:
        with _ended_cleanly():
            code = args.run(args) or 0
        sys.stdout.flush()  # so that a closed pipe shows here and not while Python shuts down
        return code
    except UserError as error:
        return _complain(error)
    except Interrupted as stop:  # of a run, which says what is kept
        print(f"icf: {stop}", file=sys.stderr)
        return 128 + stop.number
    except _Terminated as end:
        print("icf: terminated", file=sys.stderr)
        return 128 + end.args[0]
    except KeyboardInterrupt:
        print("icf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `icf ... | head`: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(
                UserError(f"no space left on the disk{_where(error)}; free some, or name another --out or ICF_CACHE")
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _complain(UserError(f"not permitted to write or read{_where(error)}; choose another folder"))
        raise


@contextmanager
def _ended_cleanly() -> Iterator[None]:
    """Within, a signal to end is an exception, unless it is ignored (`nohup`) or a caller of ours handles it."""
    is_main = threading.current_thread() is threading.main_thread()
    handled = [number for number in _ENDS if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once more, it would break off the cleaning up
    raise _Terminated(number)


def _where(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _complain(error: UserError) -> int:
    if verbosity() >= VERBOSE:
        traceback.print_exception(error)
    print(f"icf: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""Entry point of the command line, `icf COMMAND`, and its error handling. The commands are in cli/."""

from __future__ import annotations

import errno
import os
import sys
import traceback

from icf_avs.cli.parser import build_parser
from icf_avs.console import VERBOSE, set_verbosity, verbosity
from icf_avs.errors import UserError
from icf_avs.interrupts import Interrupted, Interruption


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 (an error the user can fix), 130, 141 or 143."""
    args = build_parser().parse_args(argv)
    args.command_line = sys.argv[1:] if argv is None else argv
    set_verbosity(args.verbosity)
    try:
        with Interruption():
            code = args.run(args) or 0
        sys.stdout.flush()  # so that a closed pipe raises here and not while Python shuts down
        return code
    except UserError as error:
        return _complain(error)
    except KeyboardInterrupt as stop:
        told = stop if isinstance(stop, Interrupted) else Interrupted(2)
        print(f"icf: {told}", file=sys.stderr)  # for training, tells what is kept
        return 128 + told.number
    except BrokenPipeError:  # `icf ... | head`: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(
                UserError(f"no space left on the disk{where}; free some, or name another --out or ICF_CACHE")
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _complain(UserError(f"not permitted to write or read{where}; choose another folder"))
        raise


def _complain(error: UserError) -> int:
    if verbosity() >= VERBOSE:
        traceback.print_exception(error)
    print(f"icf: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `icf COMMAND`, and what becomes of errors. The commands are in cli/."""

from __future__ import annotations

import errno
import os
import sys

from icf_avs.cli.parser import build_parser
from icf_avs.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (report --check: stale), 2 (the user can mend it), 130 or 141."""
    args = build_parser().parse_args(argv)
    try:
        code = args.run(args) or 0
        sys.stdout.flush()  # so that a closed pipe shows here and not while Python shuts down
        return code
    except UserError as error:
        return _complain(error)
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


def _where(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _complain(error: UserError) -> int:
    print(f"icf: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

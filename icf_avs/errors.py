"""The one exception a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: one line that says what, where and what to do.

    The command line prints it without a traceback and exits with code 2; in Python it is an ordinary
    exception whose text is that line.
    """

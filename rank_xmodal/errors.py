"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A bad input, said so that its author can mend it.

    The message names the file, row or parameter, the value found and the remedy.
    The command line prints it without a traceback and exits with status 2.
    """

"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence: which file, which entry, what was expected, what was found, what to do.
    The command line prints it without a traceback and exits with 2.
    """

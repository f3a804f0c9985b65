"""The one base class for errors that a user can cause and fix."""


class LunaError(Exception):
    """Something a user can fix.

    The message names what was wrong, the value that was found, and what to do. The command line prints it as
    one clean line, without a traceback; anything else that is raised is a bug and keeps its traceback.
    """

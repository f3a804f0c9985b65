"""The one base class for errors that a user can cause and fix."""


class LunaError(Exception):
    """Something a user can fix.

    The message names what was wrong, the value that was found, and what to do. The command line prints it as
    one clean line, without a traceback; anything else that is raised is a bug and keeps its traceback.
    """


def shown(value: object) -> str:
    """A value in a message, however large it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list of lists of lists
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."

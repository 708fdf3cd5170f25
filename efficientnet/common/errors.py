"""The errors that end a command in one or two lines instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something that the person at the keyboard can mend.

    str() says in one or two lines what is wrong, in which file or flag, and what to do. A command prints it and ends
    with exit code 1 (see `command_line.command`).
    """

"""Errors that end a command with one or two lines instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix.

    str() says in one or two lines what is wrong, in which file or flag, and what to do. A command prints it and exits
    with code 1 (see `command_line.command`).
    """

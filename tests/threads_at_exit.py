"""Runs a command, as `python COMMAND ARGUMENTS` does, and at last writes the names of its threads to FOLDER/RANK.

Usage: threads_at_exit.py FOLDER COMMAND ARGUMENTS
"""

import atexit
import os
import runpy
import sys
from pathlib import Path

_, folder, *sys.argv = sys.argv


@atexit.register
def write_threads() -> None:
    names = (path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    Path(folder, os.environ["RANK"]).write_text(" ".join(names))


sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
runpy.run_path(sys.argv[0], run_name="__main__")

"""What the processes of tests/test_isolated.py do; a module, so that they find it."""

import ctypes
import os
import signal
import time


def act(deed: str):
    """Does what it is told, and returns how that went."""
    match deed.split():
        case ["square", number]:
            return int(number) ** 2
        case ["raise", *words]:
            raise ValueError(" ".join(words))
        case ["exit", code]:
            os._exit(int(code))
        case ["crash"]:
            ctypes.string_at(0)
        case ["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case ["memory", mebibytes]:
            return len(bytearray(int(mebibytes) * 2**20))
        case ["pid"]:
            return os.getpid()
        case ["say", *words]:
            os.write(2, " ".join(words).encode())

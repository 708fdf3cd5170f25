"""CPU helpers: usable cores, bf16 units, and a faster setting of the memory allocator."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks for the next allocation instead of returning them to the kernel.

    By default, every large activation is mapped anew and the kernel zeroes its pages one page fault at a time. On a CPU
    this costs more than a layer's arithmetic. Memory that is already free is returned to the kernel first. Does nothing
    except on Linux with glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    if not libc.mallopt(m_mmap_threshold, 2**31 - 1):
        libc.mallopt(m_mmap_threshold, 2**25)  # the maximum before glibc 2.35
    libc.mallopt(m_trim_threshold, -1)  # never


def has_bf16_units() -> bool:
    """Whether the processor multiplies bf16 in hardware, with AMX tiles or AVX-512 dot products.

    False on other systems than Linux.
    """
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(cpu_flags())


def cpu_flags() -> list[str]:
    """The instruction sets of the processor that Linux lists; none on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])

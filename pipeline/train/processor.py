"""What makes training on a CPU fast: memory that is kept, and products in the faster type."""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.train.config import Precision

logger = logging.getLogger(__name__)

# glibc, malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULT_TRIM, DEFAULT_MMAP_MAX = 128 << 10, 65536
NEVER = (1 << 31) - 1


@contextmanager
def kept_memory() -> Iterator[None]:
    """Freed memory stays with this process, so that the next update need not ask for it again.

    Each large tensor of an update is mapped and unmapped otherwise, and the system clears all of
    its pages in between. What was kept is given back on leaving.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is glibc's."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def precision_of_products(wanted: Precision, device: torch.device) -> Precision:
    """The precision in which matrix products are computed where `wanted` is asked for.

    It is `wanted`, but for bf16 on an x86 processor without fast units for it: there products are
    computed in float32, which is no less exact, and up to twice as fast
    (`benchmarks/bench_pretraining_cpu.py`).
    """
    if wanted != "bf16" or device.type != "cpu" or multiplies_bf16_fast(_processor()):
        return wanted
    logger.info("this processor has no fast bf16 units: products are computed in float32")
    return "fp32"


def multiplies_bf16_fast(processor: str) -> bool:
    """Whether a processor that `/proc/cpuinfo` describes so multiplies bf16 faster than float32.

    AMX does. Of AVX-512's own instructions those of AMD do; Intel's took twice the time of float32
    on a Xeon that offers them and no AMX.
    """
    said = dict(re.findall(r"^(flags|vendor_id)\s*:\s*(.*)$", processor, re.MULTILINE))
    flags = said.get("flags", "").split()
    return (
        not flags
        or "amx_bf16" in flags
        or ("avx512_bf16" in flags and said.get("vendor_id") == "AuthenticAMD")
    )


@functools.cache
def _processor() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

import logging
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from pipeline.train import loop, processor
from pipeline.train.processor import multiplies_bf16_fast, precision_of_products
from tests.train.conftest import config

CPU = torch.device("cpu")


def described(vendor, *flags):
    return f"vendor_id\t: {vendor}\nmodel name\t: x\nflags\t\t: fpu {' '.join(flags)}\n\n" * 2


@pytest.mark.parametrize(
    ("processor", "fast"),
    [
        (described("GenuineIntel", "avx2"), False),
        (described("GenuineIntel", "avx512f", "avx512_bf16"), False),
        (described("GenuineIntel", "avx512_bf16", "amx_bf16"), True),
        (described("AuthenticAMD", "avx2"), False),
        (described("AuthenticAMD", "avx512_bf16"), True),
        ("Features\t: asimd bf16\n", True),
        ("", True),
    ],
)
def test_bf16_is_fast_where_the_processor_has_units_for_it(processor, fast):
    assert multiplies_bf16_fast(processor) == fast


def test_float32_stands_in_for_slow_bf16_on_a_cpu_alone(monkeypatch, caplog):
    monkeypatch.setattr(processor, "_processor", lambda: described("GenuineIntel", "avx2"))
    with caplog.at_level(logging.INFO):
        assert precision_of_products("bf16", CPU) == "fp32"
    assert "products are computed in float32" in caplog.text
    assert precision_of_products("fp32", CPU) == "fp32"
    assert precision_of_products("bf16", torch.device("cuda")) == "bf16"
    monkeypatch.setattr(processor, "_processor", lambda: described("AuthenticAMD", "avx512_bf16"))
    assert precision_of_products("bf16", CPU) == "bf16"


FAULTS = """
import resource, torch
from pipeline.train.processor import kept_memory

def faults():
    for _ in range(16):
        torch.ones(64 << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
with kept_memory():
    print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_kept_memory_is_not_asked_of_the_system_again():
    """In a process of its own, whose heap has no room left by others."""
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True)
    before, kept = map(int, run.stdout.split())
    pages = 64 << 20 >> 12
    assert kept < pages < 2 * pages < before


def test_updates_are_made_with_memory_that_is_kept(run, monkeypatch):
    update, within = loop.Run.update, []

    @contextmanager
    def noted():
        within.append("kept")
        yield
        within.append("given back")

    def noted_update(self, number):
        within.append(number)
        return update(self, number)

    monkeypatch.setattr(loop, "kept_memory", noted)
    monkeypatch.setattr(loop.Run, "update", noted_update)
    run(config(3))
    assert within == ["kept", 1, 2, 3, "given back"]

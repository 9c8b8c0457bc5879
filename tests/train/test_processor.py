import logging
import sys

import pytest
import torch

from pipeline.train import processor
from pipeline.train.processor import kept_memory, multiplies_bf16_fast, precision_of_products

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


def faults():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def touch_again(megabytes, times):
    for _ in range(times):
        torch.ones(megabytes << 18)
    before = faults()
    for _ in range(times):
        torch.ones(megabytes << 18)
    return faults() - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_kept_memory_is_not_asked_of_the_system_again():
    pages = 64 << 20 >> 12
    assert touch_again(64, 4) > 2 * pages
    with kept_memory():
        assert touch_again(64, 4) < pages
    assert touch_again(64, 4) > 2 * pages

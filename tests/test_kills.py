"""A curation of every format and tagger, killed at random; `benchmarks/kills.py` kills more."""

import subprocess
import sys

import pytest

from tests.fixtures.small import ROOT


@pytest.mark.slow
@pytest.mark.long
def test_a_curation_killed_at_random_moments_ends_as_an_undisturbed_one():
    command = [sys.executable, "benchmarks/kills.py", "--kills", "4", "--per-round", "4"]
    made = subprocess.run(
        [*command, "--records", "200"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert " 0 faults." in made.stdout

"""Which whole numbers may be a seed: those that an experiment's file carries exactly."""

from __future__ import annotations

MAX_SEED = 2**53 - 1  # Jsonnet's numbers are doubles: 2**53 + 1 is read as 2**53


def seed_fault(seed: int) -> str:
    """What is wrong with a seed; empty where nothing is."""
    if 0 <= seed <= MAX_SEED:
        return ""
    return f"is {seed}; it must be from 0 to 2**53 - 1, beyond which an experiment rounds numbers"

"""The references themselves, each in an environment of its own: `pytest -m parity`."""

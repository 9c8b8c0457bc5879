"""What every test may use: the reviewed answers in `golden/`."""

import json
import os
import signal
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the tests make to tests/golden/, for review, and compare nothing",
    )


class Golden:
    """The files of `golden/`: names and values that were looked at once and must not move."""

    def __init__(self, update):
        self.update = update

    def moved(self, file, made, same=lambda old, new: old == new):
        """Names whose values differ from those in a JSON file, or stand on one side only.

        With `--update-golden` the file is written anew and nothing has moved.
        """
        path = GOLDEN / file
        if self.update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            return []
        held = self.held(file)
        return [
            name
            for name in sorted(made.keys() | held.keys())
            if name not in made or name not in held or not same(held[name], made[name])
        ]

    def held(self, file):
        """What a JSON file holds."""
        return json.loads((GOLDEN / file).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden(request):
    return Golden(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def own_umask():
    """A workspace sets the umask of its process; that of one test is not that of the next."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """What a test leaves need not survive that the machine loses power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def steps_run_in_this_process():
    """No worker is started for a graph of small steps; tests of workers say that they want them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLMO_IN_PROCESS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """A shell that starts the tests in its background has them ignore it, and their children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

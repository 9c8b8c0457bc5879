"""Whether outside data can be had from this machine: a look at its first byte, with an end."""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.errors import Unavailable
from pipeline.core.fingerprints import OutsideFile, is_url, open_outside
from pipeline.data.sources.cut import chosen
from pipeline.data.sources.files import Files, told_apart
from pipeline.data.sources.hf_dataset import HfDataset

WAIT_SECONDS = 15.0
MAX_REASON = 160  # characters


class Reach:
    """Says why something cannot be had; a host that did not answer is asked once."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self.wait_seconds = wait_seconds
        self._silent: dict[str, str] = {}

    def reason(self, cls: type, value: dict[str, Any], max_pieces: int) -> str | None:
        """Why a component that reads outside data cannot; None where it can or is of another kind.

        Args:
            value: the component's fields as an experiment has them; they may name missing files.
            max_pieces: of many files, so many are chosen as `Cut` chooses them.
        """
        path = value.get("path")
        if issubclass(cls, Files):
            paths = [path] if isinstance(path, str) else list(path or [])
            names = [name for _, name in told_apart([(p, p.rsplit("/", 1)[-1]) for p in paths])]
            reasons = map(self._of_files, chosen(paths, names, max_pieces))
            return next((each for each in reasons if each), None)
        if issubclass(cls, OutsideFile) and isinstance(path, str):
            return self._of_files(path)
        if issubclass(cls, HfDataset) and isinstance(path, str) and not os.path.isdir(path):
            return self._of_dataset(path)
        return None

    def _of_files(self, path: str) -> str | None:
        if is_url(path):
            return self._asked(urlsplit(path).netloc, lambda: _read_a_byte(path))
        if os.path.exists(path) or glob.glob(path, recursive=True):
            return None
        return f"{path} matches no file"

    def _of_dataset(self, path: str) -> str | None:
        def ask() -> None:
            from huggingface_hub import auth_check

            auth_check(path, repo_type="dataset")

        return self._asked("the Hugging Face Hub", ask)

    def _asked(self, host: str, ask: Callable[[], None]) -> str | None:
        """What went wrong when asking; an answer from the host that is a refusal says so itself."""
        if host in self._silent:
            return self._silent[host]
        error = _error_of(ask, self.wait_seconds)
        if error is None:
            return None
        if _is_silence(error):
            self._silent[host] = f"no answer from {host} ({type(error).__name__})"
            return self._silent[host]
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON]


def _read_a_byte(path: str) -> None:
    with open_outside(path) as file:
        file.read(1)


def _error_of(ask: Callable[[], None], seconds: float) -> BaseException | None:
    """The error of a call, or that it took too long; the thread of such a call is left behind."""
    found: list[BaseException] = []

    def call() -> None:
        try:
            ask()
        except BaseException as error:  # each protocol has errors of its own
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return Unavailable(f"no answer in {seconds:g} s")
    return found[0] if found else None


def _is_silence(error: BaseException) -> bool:
    """Whether nobody answered, in the words of requests, httpx or a socket."""
    name = type(error).__name__
    unanswered = isinstance(error, (OSError, Unavailable)) or "Connect" in name or "Timeout" in name
    return unanswered and getattr(error, "response", None) is None

"""How a command ends that cannot do what it was asked: a line for a person, not a traceback."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from pipeline.core.stopping import INTERRUPTED

OURS = Path(__file__).resolve().parents[2]
FAULT = 1  # exit status
DEBUG = "--debug"


def tell(error: BaseException, debug: bool) -> int:
    """Say what went wrong; gives the exit status."""
    from pipeline.core.terminal import visible

    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    if debug:
        traceback.print_exception(error)
    elif text := as_text(error):
        print(visible(text, keep_lines=True), file=sys.stderr)
    return FAULT


def as_text(error: BaseException) -> str:
    """An error for a person; empty where everything was said already.

    What we raise on purpose says all itself; anything else is named with its kind.
    """
    from pipeline.core.errors import PipelineError
    from steps.cli.experiment import SyntaxFault

    if isinstance(error, (PipelineError, SyntaxFault, OSError)) or _is_tangos(error):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ValueError) and frames and Path(frames[-1].filename).is_relative_to(OURS):
        return str(error)
    return f"{type(error).__name__}: {error}\n({DEBUG} shows where this was raised)"


def _is_tangos(error: BaseException) -> bool:
    """Whether an error is one that Tango raises for users, ours of an experiment among them."""
    if "tango.common.exceptions" not in sys.modules:
        return False
    from tango.common.exceptions import TangoError

    return isinstance(error, TangoError)

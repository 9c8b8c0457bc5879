"""A picture of a page, taken by a Chromium where there is one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAX_BYTES = 400_000  # of a picture that is kept in the repository
SECONDS = 120
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers run as root, where the sandbox does not start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def browser() -> str | None:
    """The program that takes pictures, or none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def take_screenshot(page: Path, out: Path, *, width: int = 1100, height: int = 1500) -> bool:
    """Write a PNG of the top of a page; says False, and writes nothing, without a browser.

    Args:
        width: of the window in px, as `height`.

    Raises:
        ValueError: the browser made no picture, or one above 400 kB.
    """
    program = browser()
    if program is None:
        return False
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "page.png"
        command = [program, *FLAGS, f"--user-data-dir={scratch}/profile"]
        command += [f"--window-size={width},{height}", f"--screenshot={made}"]
        try:
            done = subprocess.run(
                [*command, Path(page).resolve().as_uri()],
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{program} took more than {SECONDS} s over {page}") from error
        if not made.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ValueError(f"{program} made no picture of {page} ({' '.join(said)})")
        size = made.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(
                f"the picture of {page} has {size} bytes; it must have at most {MAX_BYTES}: "
                "make its window smaller"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, out)
    return True

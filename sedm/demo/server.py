"""The style mixing of notebook 06 as a page, for this computer alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from sedm.runtime.extras import extra

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "06_style_mixing.ipynb"
LARGEST_UPLOAD = 64 * 2**20  # bytes of a message from the page: a photo from a telephone may have a dozen million
TEMPLATES = Path(__file__).parent / "share"


def serve(port: int, no_browser: bool) -> None:
    """Serve the page with Voilà at ``port`` until it is interrupted, and print its address, which holds a token.

    Raises:
        FileNotFoundError: no checkout of the repository.
        MissingExtraError: Voilà is not installed.
    """
    if not NOTEBOOK.is_file():
        raise FileNotFoundError(f"{NOTEBOOK} is not there; run it from a checkout of the repository")
    # Voilà answers SIGTERM between two tasks
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with extra("demo"):
        from voila.app import Voila
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(TEMPLATES), os.environ.get("JUPYTER_PATH")]))
    options = [
        "--Voila.ip=127.0.0.1",
        f"--port={port}",
        "--token",  # a new one each time
        "--template=sedm",
        "--preheat_kernel=True",  # a kernel with the model loaded waits for the next page
        "--pool_size=1",
        f"--Voila.tornado_settings={{'websocket_max_message_size': {LARGEST_UPLOAD}}}",
        *(["--no-browser"] if no_browser else []),
    ]
    Voila.launch_instance([str(NOTEBOOK), *options])

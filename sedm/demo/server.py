"""The style mixing of notebook 06 as a page, for this computer alone.

sedm demo [--port 8866] [--no-browser]
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from sedm.runtime.extras import extra

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "06_style_mixing.ipynb"
LARGEST_UPLOAD = 64 * 2**20  # bytes of a message from the page: a photo from a telephone may have a dozen million
TEMPLATES = Path(__file__).parent / "share"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page with Voilà until it is interrupted, and print its address, which holds a token."""
    parser = argparse.ArgumentParser("sedm demo", description=main.__doc__)
    parser.add_argument("--port", type=int, default=8866, help="the next free one is taken where it is in use")
    parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    choices = parser.parse_args(arguments)
    if not NOTEBOOK.is_file():
        raise FileNotFoundError(f"{NOTEBOOK} is not there; run it from a checkout of the repository")
    # Voilà answers SIGTERM between two tasks
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with extra("demo"):
        from voila.app import Voila
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(TEMPLATES), os.environ.get("JUPYTER_PATH")]))
    options = [
        "--Voila.ip=127.0.0.1",
        f"--port={choices.port}",
        "--token",  # a new one each time
        "--template=sedm",
        "--preheat_kernel=True",  # a kernel with the model loaded waits for the next page
        "--pool_size=1",
        f"--Voila.tornado_settings={{'websocket_max_message_size': {LARGEST_UPLOAD}}}",
        *(["--no-browser"] if choices.no_browser else []),
    ]
    Voila.launch_instance([str(NOTEBOOK), *options])

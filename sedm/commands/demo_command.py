"""``sedm demo``: style mixing as a page, for this computer alone."""

from __future__ import annotations

from collections.abc import Sequence

from sedm.commands.words import Parser, whole_number


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page with Voilà until it is interrupted, and print its address, which holds a token."""
    parser = Parser("demo", main, "--no-browser")
    parser.add_argument(
        "--port", type=whole_number(1), default=8866, help="8866 when left out; the next free one where it is in use"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    options = parser.parse_args(arguments)
    if options.port >= 2**16:
        raise ValueError(f"--port {options.port}; the highest is {2**16 - 1}")
    from sedm.demo.server import serve

    serve(options.port, options.no_browser)

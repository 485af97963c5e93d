"""The command ``sedm``, also ``python -m sedm``: its sub-commands, and how all of them end on bad input."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sedm.config import known_name
from sedm.runtime.extras import MissingExtraError

COMMANDS = {
    "check": ("sedm.commands.check_command", "say what is in a data set, and what is wrong with it"),
    "data": ("sedm.commands.data_command", "make patch tables of public data sets, or of own slides"),
    "train": ("sedm.commands.train_command", "train the generator of a study"),
    "ablate": ("sedm.commands.ablate_command", "train and measure variants of the generator"),
    "generate": ("sedm.commands.generate_command", "make a table of synthetic images"),
    "compare": ("sedm.commands.compare_command", "find out whether synthetic images help, and report it"),
    "segment": ("sedm.commands.segment_command", "train and score segmentation networks, arm by arm"),
    "pack": ("sedm.commands.pack_command", "pack a finished run for others"),
    "demo": ("sedm.commands.demo_command", "serve style mixing as a page, for this computer alone"),
}
"""Module and purpose of each sub-command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and return its exit status: 2 on bad input, which ends in one sentence.

    >>> main(["train", "tissue", "--seed", "-1", "--out", "unused"])
    2
    """
    purposes = "\n".join(f"  {name:9} {purpose}" for name, (_, purpose) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sedm",
        description="Style-Extracting Diffusion Models, from the shell.",
        epilog=f"{purposes}\n\nexample: sedm check my_images",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="see below; sedm COMMAND --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="of the command")
    options = parser.parse_args(arguments)
    try:
        module, _ = COMMANDS[known_name("command", options.command, COMMANDS)]
        return import_module(module).main(options.arguments) or 0
    except (ValueError, OSError, MissingExtraError) as error:
        # of several processes the first reports it, but a file may be missing on a single machine
        if isinstance(error, OSError) or os.environ.get("RANK", "0") == "0":
            print(f"sedm {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

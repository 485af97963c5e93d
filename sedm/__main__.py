"""The command ``sedm``, also ``python -m sedm``: its sub-commands, and how all of them end on bad input.

A sub-command is the function ``main`` of a module, which parses its own arguments: ``sedm train --help``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from sedm.data.archives.download import DownloadError
from sedm.runtime.extras import MissingExtraError

COMMANDS = {
    "check": ("sedm.data.study_check", "say what is in a data set, and what is wrong with it"),
    "data": ("sedm.data.archives.prepare", "make patch tables of public data sets"),
    "train": ("sedm.generator.training", "train the generator of a study"),
    "ablate": ("sedm.experiments.variant_runs", "train and measure variants of the generator"),
    "generate": ("sedm.generation.generate", "make a table of synthetic images"),
    "compare": ("sedm.experiments.study_report", "find out whether synthetic images help, and report it"),
    "segment": ("sedm.experiments.arm_runs", "train and score segmentation networks, arm by arm"),
    "pack": ("sedm.sharing.packing", "pack a finished run for others"),
    "demo": ("sedm.demo.server", "serve style mixing as a page, for this computer alone"),
}
"""Module and purpose of each sub-command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and return its exit status: 2 on bad input, which ends in one sentence.

    >>> main(["train", "--study", "ebhi", "--out", "unused"])
    2
    """
    parser = argparse.ArgumentParser(
        prog="sedm",
        description="Style-Extracting Diffusion Models, from the shell.",
        epilog="\n".join(f"  {name:9} {purpose}" for name, (_, purpose) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below; sedm COMMAND --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="of the command")
    options = parser.parse_args(arguments)
    module, _ = COMMANDS[options.command]
    try:
        return import_module(module).main(options.arguments) or 0
    except (ValueError, OSError, DownloadError, MissingExtraError) as error:
        if _speaks(error):
            print(f"sedm {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _speaks(error: Exception) -> bool:
    """Tell whether this process reports an error: one of several, but a file may be missing on a single machine."""
    from accelerate import PartialState

    return isinstance(error, OSError) or PartialState().is_main_process


if __name__ == "__main__":
    sys.exit(main())

"""``sedm pack``: a finished run in a folder that can be shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sedm.commands.words import STUDY, Parser, new_folder
from sedm.config import find_study


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack a finished run for others: weights, layout prior, style bank and a card, but no real image."""
    example = "tissue --run data/runs/tissue/quick --figures figures/tissue --out data/models/mine"
    parser = Parser("pack", main, example)
    parser.add_argument("study", help=STUDY)
    parser.add_argument("--run", type=Path, required=True, help="folder with model/, layout prior and style bank")
    parser.add_argument("--figures", type=Path, required=True, help="folder with values_training.json")
    parser.add_argument("--out", type=new_folder, required=True, help="folder to be made")
    parser.add_argument("--half", action="store_true", help="half precision, if the pictures stay the same")
    options = parser.parse_args(arguments)
    study = find_study(options.study)
    from sedm.sharing.packing import pack_run

    out = pack_run(study, options.run, options.figures, options.out, options.half)
    for path in sorted(out.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size / 2**20:6.2f} MiB  {path}")

"""``sedm check my_images``: what is in a data set, every fault of it at once, and what will hurt.

``--write`` makes a first study.toml for it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sedm.commands.words import Parser, new_picture
from sedm.config import PRESETS, build_config
from sedm.config.study import FILE, RESULTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what is in a data set, list every fault at once, warn of what will hurt, and draw a sheet of pictures."""
    parser = Parser("check", main, "my_images --write")
    parser.add_argument("data", type=Path, help=f"folder of images, table of paths, parquet, or a {FILE}")
    parser.add_argument("--write", action="store_true", help=f"write a first {FILE} where there is none")
    parser.add_argument(
        "--sheet",
        type=new_picture,
        metavar="PNG",
        help=f"picture sheet; {RESULTS}/check.png beside the data if left out",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"what a first {FILE} is to say in [data], where it cannot be guessed, such as group_level=2",
    )
    options = parser.parse_args(arguments)
    known = dict(_parse_setting(text) for text in options.set)
    from sedm.data.errors import PatchTableError
    from sedm.data.study_check import check_source, draw_sheet, find_source
    from sedm.data.study_source import StudySource
    from sedm.figures import set_plot_style
    from sedm.runtime.files import replacing

    try:
        study, draft = find_source(options.data, known)
    except PatchTableError as fault:
        where = f"here by --set, or in [data] of a {FILE}"
        raise ValueError(f"{fault} ({where})" if re.search(r"\w=", str(fault)) else str(fault)) from None
    if draft and options.write and study.file.exists():
        raise ValueError(f"{study.file}: exists already, for other images; --write never replaces it")
    for preset in PRESETS:
        build_config(study, preset)  # refuses settings that there are not
    source = StudySource(study)
    summary, faults = check_source(source)
    for line in summary.lines():
        print(line)
    for fault in faults:
        print(f"fault: {' '.join(str(fault).split())}")
    for warning in summary.warnings():
        print(f"warning: {warning}")
    if draft:
        print(f"\nNo {FILE} describes these images; it may look like this:\n\n{draft}")
    if faults:
        print(f"{len(faults):,} fault{'s' if len(faults) > 1 else ''}; nothing was written")
        return 2
    if draft and options.write:
        with replacing(study.file) as temporary:
            temporary.write_text(draft, encoding="utf-8")
        print(f"written: {study.file}; read it, and correct what it cannot know")
    set_plot_style()
    sheet = options.sheet or study.file.parent / RESULTS / "check.png"
    with replacing(sheet) as temporary:
        draw_sheet(source).savefig(temporary, format="png")
    print(f"picture sheet: {sheet}")
    return 0


def _parse_setting(text: str) -> tuple[str, Any]:
    """Parse a key and its value, which is one of TOML or else text.

    >>> _parse_setting("group_level=[1, 2]"), _parse_setting("group_column=patient")
    (('group_level', [1, 2]), ('group_column', 'patient'))
    """
    key, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--set {text}; write it as KEY=VALUE, such as group_level=2")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value

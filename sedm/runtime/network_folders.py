"""Networks in folders of diffusers or transformers: opened whole, or refused in one sentence."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import nn


def read_settings(folder: str | Path, file_name: str, expected: Collection[str]) -> dict:
    """Read the settings in a folder of diffusers; ``_class_name`` in them is the class that wrote it.

    Args:
        folder: written by ``save_pretrained``.
        file_name: "config.json" of a network, "model_index.json" of a pipeline.
        expected: names of the classes that may have written it.

    Raises:
        ValueError: no such folder or file, an unreadable file, or another class.

    >>> read_settings("no/such/folder", "config.json", ["UNet2DModel"])
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder: no such folder; expected one written by save_pretrained of UNet2DModel
    """
    path = Path(folder) / file_name
    writers = " or ".join(expected)
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; expected one written by save_pretrained of {writers}")
    if not path.is_file():
        raise ValueError(f"{folder}: no {file_name}; expected a folder written by save_pretrained of {writers}")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        name = settings["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not written by diffusers ({error!r}); expected the settings of {writers}") from error
    if name not in expected:
        raise ValueError(f"{folder}: holds a {name}; expected {writers}")
    return settings


def open_network(
    network_class: type,
    folder: str | Path,
    *,
    kind: str,
    setting: str = "",
    is_optional: Callable[[str], bool] = lambda name: False,
    allow_more: bool = False,
    **options,
) -> nn.Module:
    """Open the network that ``save_pretrained`` of diffusers or transformers wrote, in evaluation mode on the CPU.

    Nothing is downloaded, nothing but safetensors is read, and no weight is left at random without a word.

    Args:
        network_class: has ``from_pretrained``; such as ``transformers.AutoModel``.
        folder: of the network.
        kind: what should be there, for messages, such as "SegFormer of transformers".
        setting: the setting that names the folder, for messages.
        is_optional: whether the weight of this name may be missing.
        allow_more: accept weights that the network has no use for, such as those of a classifier.
        options: passed on to ``from_pretrained``.

    Raises:
        ValueError: no network of this kind, damaged or missing weights, or settings that this version does not know.

    >>> from diffusers import UNet2DModel
    >>> open_network(UNet2DModel, "no/such/folder", kind="U-Net of diffusers")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder: no U-Net of diffusers can be read there (...)
    """
    place = f"{setting}={str(folder)!r}" if setting else str(folder)
    options |= {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        with _silent_loaders():  # they list every missing weight, and one sentence below says it
            network, report = network_class.from_pretrained(str(folder), **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{place}: no {kind} can be read there ({_first_line(error)})") from error
    except TypeError as error:  # of a network that is made without a setting, or with one that is no more
        raise ValueError(
            f"{place}: its settings are not those of this version's {kind} ({_first_line(error)}); train it again, or "
            "read it with the version that wrote it"
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not is_optional(name))
    if missing:
        raise ValueError(
            f"{place}: {len(missing)} weights of this version's {kind} are missing, such as {missing[0]}; train it "
            "again, or read it with the version that wrote it"
        )
    if report["unexpected_keys"] and not allow_more:
        raise ValueError(f"{place}: a {kind} has no place for the weight {sorted(report['unexpected_keys'])[0]}")
    return network.eval()


@contextmanager
def _silent_loaders() -> Iterator[None]:
    """Let diffusers and transformers say errors alone."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]

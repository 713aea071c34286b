"""Texts of a page that is sent around: they name files, not the folders of the machine."""

from __future__ import annotations

import os
import re

_START = r"(?:(?<![\w./\\~%-])|(?<=\s-o))(?!//)(?:~|[A-Za-z]:)?[\\/]"
_QUOTED = re.compile(rf"(['\"]){_START}(?:[^'\"\n]*[\\/])?([^'\"\n\\/]+)[\\/]?\1")
_BARE = re.compile(rf"{_START}(?:[^\s\\/:'\"<>|,;]+[\\/])+")


def without_folders(text: str, model: str) -> str:
    """Returns a text in which every absolute path is the name of its file alone.

    Args:
        text: a command, a note, or why something failed.
        model: path of the model that it is about, whose folder may have any name; one that is
            relative is told as it is.
    """
    whole = os.path.abspath(model)
    folder = os.path.dirname(whole)
    if len(folder) > 1:
        text = text.replace(whole, os.path.basename(model) if os.path.isabs(model) else model)
        text = text.replace(os.path.join(folder, ""), "")
    return _BARE.sub("", _QUOTED.sub(r"\1\2\1", text))

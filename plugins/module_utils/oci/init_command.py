# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of a container's init, as LXC reads it. Pure.

LXC splits ``lxc.init.cmd`` by itself (``lxc_string_split_quoted`` in string_utils.c): at spaces, where a word that
begins with a quote goes to the next quote of the same kind. It knows no escapes, and quotes within a word mean
themselves. Before that, the reader of its configuration (``parse_line`` in confile.c) takes one pair of quotes off a
value that begins and ends with the same one. Proxmox hands ``entrypoint`` to it as it is.

So ``'it'\\''s'``, as a shell and Proxmox's own conversion of images quote it, is three words to LXC.
"""

from __future__ import annotations

import re
import typing as t

_BLANK = re.compile(r"[ \t]")
# `entrypoint` of PVE/LXC/Config.pm.
_REFUSED = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class NotExpressible(ValueError):
    """A command line that LXC cannot be told. ``str()`` says why."""


def encode(args: t.Sequence[str]) -> str:
    """The value of ``entrypoint`` from which LXC makes these arguments.

    Raises:
        NotExpressible: an argument has a control character, or both kinds of quotes where it has to be quoted; or there
            is none.
    """
    if not args or not args[0]:
        raise NotExpressible("there is no command")
    text = " ".join(_word(arg) for arg in args)
    if text[0] in "'\"" and text[-1] == text[0]:
        return f'"{text}"'
    return text


def _word(arg: str) -> str:
    if _REFUSED.search(arg):
        raise NotExpressible("an argument has a line break or another control character")
    if arg and arg[0] not in "'\"" and not _BLANK.search(arg):
        return arg
    for quote in "'\"":
        if quote not in arg:
            return f"{quote}{arg}{quote}"
    raise NotExpressible("an argument with spaces has both kinds of quotes, and LXC knows no escapes")


def decode(text: str) -> list[str]:
    """The arguments that LXC makes of a value of ``entrypoint``. It drops a quoted word that has no end."""
    text = text.strip(" \t")
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        text = text[1:-1]
    words = []
    position = 0
    while position < len(text):
        char = text[position]
        if char in " \t":
            position += 1
            continue
        quoted = char in "'\""
        start = position + quoted
        ends = re.compile(char if quoted else r"[ \t]|\Z").search(text, start)
        if ends is None:
            break
        words.append(text[start : ends.start()])
        position = ends.end()
    return words

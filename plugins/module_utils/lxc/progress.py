# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress lines: a module cannot print while it runs, so it adds them to a file that its action plugin shows."""

from __future__ import annotations

import contextlib
import typing as t


@contextlib.contextmanager
def reporter(path: str | None) -> t.Iterator[t.Callable[[str], None] | None]:
    """A function that adds a line to the file, or None without one.

    The file must exist: whoever wants the lines has made it, with the mode that he wants.
    """
    if not path:
        yield None
        return
    with open(path, "r+", encoding="utf-8") as file:
        file.seek(0, 2)

        def report(line: str) -> None:
            file.write(line + "\n")
            file.flush()

        yield report

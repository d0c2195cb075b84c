# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands that run in a container, as its node runs them: ``pct exec`` or ``lxc-attach``. Nothing here does I/O.

What is known about them:

- ``pct exec`` looks whether the configuration is on this node and the container runs, and becomes ``lxc-attach``
  (PVE/CLI/pct.pm). It decodes its arguments by the locale of the node's session (``get_options`` of
  PVE/JSONSchema.pm): in the locale C every byte beyond ASCII is lost, and bytes that are no UTF-8 are in any. So no
  such byte is in an argument here.
- Neither knows users by name, and neither sets HOME. Both take the command's environment from the node's session unless
  they are told to clear it, which leaves PATH, ``container`` and what the container's configuration sets.
- Their own failures have exit codes that a command may have as well: Perl's ``die`` gives the number of any error that
  came before, ``lxc-attach`` gives 1. A command in the container therefore reports its exit code itself.
"""

from __future__ import annotations

import json
import re
import shlex
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure

TOOLS = ("pct", "lxc-attach")
NODE = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"

# How a node's command ends that has failed. ssh keeps 255 for its own failures, and with sshpass Ansible takes 1 to 6
# for those of sshpass (_handle_error of its plugin ssh).
FAILED = 254

# Why a transfer was refused in the container.
MISSING, DIRECTORY, SHORT, REFUSED = 90, 91, 92, 93

_CONTAINER = {"pct": r"[1-9][0-9]{2,8}", "lxc-attach": r"[A-Za-z0-9_][A-Za-z0-9_.+:@-]*"}
_USER = r"[^\W-][\w.@+-]*\$?"

# What ssh would set for root; su sets it for others.
_AS_ROOT = (
    "HOME=~root; case $HOME in /*) ;; *) HOME=/root ;; esac; "
    "USER=root LOGNAME=root SHELL=/bin/sh; export HOME USER LOGNAME SHELL; "
)
_AT_HOME = 'cd "$HOME" 2>/dev/null || cd /; '

# Arguments: the directory, the file, the file's name until it is complete, its size.
_PUT = f"""
[ -d "$1" ] || exit {MISSING}
[ ! -d "$2" ] || exit {DIRECTORY}
trap 'rm -f -- "$3"' EXIT
trap 'exit {REFUSED}' HUP INT TERM PIPE
cat >"$3" || exit {REFUSED}
[ "$(wc -c <"$3")" -eq "$4" ] || exit {SHORT}
mv -f -- "$3" "$2" || exit {REFUSED}
"""
# Arguments: the file, what is before its size on standard error.
_FETCH = f"""
[ -e "$1" ] || exit {MISSING}
[ ! -d "$1" ] || exit {DIRECTORY}
size=0
[ ! -f "$1" ] || size=$(wc -c <"$1") || exit {REFUSED}
printf '%s%d\\n' "$2" "$size" >&2
cat <"$1" || exit {REFUSED}
"""


# ---------------------------------------------------------------------------------------------------------- commands


def exec_command(container: str, argv: t.Sequence[str], user: str | None = None, tool: str = "pct") -> list[str]:
    """The command by which a node runs another one in a container, as words.

    container: the vmid for ``pct``, the name for ``lxc-attach``.
    user: by name; None is root. Others need ``su`` in the container.

    Raises:
        Failure: ``invalid_option``.
    """
    if _is_root(user):
        return _entered(container, list(argv), tool)
    return shell_command(container, f"exec {shlex.join(argv)}", user, tool)


def shell_command(container: str, script: str, user: str | None = None, tool: str = "pct") -> list[str]:
    """The same for a script of the container's ``/bin/sh``.

    ``su -s`` is what nearly every container has, by util-linux, shadow or busybox; ``runuser`` and ``setpriv`` are not.

    Raises:
        Failure: ``invalid_option``.
    """
    if user is None or _is_root(user):
        return _entered(container, ["/bin/sh", "-c", script], tool)
    if not re.fullmatch(_USER, user):
        raise Failure("invalid_option", f"{user!r} is not the name of a user.", "Give it without spaces and slashes.")
    return _entered(container, ["su", "-s", "/bin/sh", "-c", script, user], tool)


def _is_root(user: str | None) -> bool:
    return user in (None, "", "root")


def _entered(container: str, argv: list[str], tool: str) -> list[str]:
    if tool not in TOOLS:
        raise Failure("invalid_option", f"{tool!r} is not one of {', '.join(TOOLS)}.", "Choose one of them.")
    if not re.fullmatch(_CONTAINER[tool], container):
        what = "the id of a container, such as 201" if tool == "pct" else "the name of a container"
        raise Failure("invalid_option", f"{container!r} is not {what}.", f"{tool} takes no other.")
    words = ascii_only(argv)
    if tool == "pct":
        return ["pct", "exec", container, "--keep-env=0", "--", *words]
    return ["lxc-attach", "-n", container, "--clear-env", "--", *words]


def ascii_only(argv: t.Sequence[str]) -> list[str]:
    """The same command with ASCII in its words only: a shell decodes the rest, when there is any.

    Bytes that are no UTF-8 are as ``os.fsdecode`` gives them.
    """
    if all(word.isascii() for word in argv):
        return list(argv)
    # A substitution takes the newlines at the end away; the word that ends with one is quoted, so that there are none.
    line = f"exec {shlex.join(argv)}".encode("utf-8", "surrogateescape")
    octal = "".join(chr(byte) if 32 <= byte < 127 and byte not in b"'%\\" else f"\\{byte:03o}" for byte in line)
    return ["/bin/sh", "-c", f"eval \"$(printf '{octal}')\""]


def for_login_shell(argv: t.Sequence[str]) -> str:
    """A command for ssh: one line for the node's login shell, which ends with 0 or ``FAILED``.

    The shell has to be one that knows POSIX's syntax, as root's on Proxmox does.
    """
    return f"{shlex.join(argv)} || exit {FAILED}"


# ---------------------------------------------------------------------------------------------------------- exit codes


def reporting(script: str, mark: str, user: str | None = None) -> str:
    """A script that does the same at the user's home, and reports an exit code other than 0 on standard error.

    mark: what is before the exit code; nobody else shall know it beforehand.
    """
    return (
        f"{_AS_ROOT if _is_root(user) else ''}{_AT_HOME}"
        f"(eval {shlex.quote(script)}); rc=$?; "
        f'[ "$rc" -eq 0 ] || printf "%s%d\\n" {mark} "$rc" >&2; exit "$rc"'
    )


@dataclass(frozen=True)
class Outcome:
    """How a command has ended.

    rc: None when the container was not entered, or the command was ended from outside.
    """

    rc: int | None
    stdout: bytes
    stderr: bytes


def outcome(rc: int, stdout: bytes, stderr: bytes, mark: str) -> Outcome:
    """What a command said that ran with ``reporting``, without the report.

    With a terminal the report is on standard output.
    """
    if rc == 0:
        return Outcome(0, stdout, stderr)
    report = re.compile(re.escape(mark.encode()) + rb"(\d+)\r?\n")
    for text in (stderr, stdout):
        found = report.search(text)
        if found:
            return Outcome(int(found[1]), report.sub(b"", stdout), report.sub(b"", stderr))
    return Outcome(None, stdout, stderr)


def why_not_entered(output: str, container: str, host: str, tool: str) -> Failure:
    """What it means that a container was not entered.

    output: what the tool said.
    """
    said = _sentence(output)
    which = f"Container {container} on {host}"
    if re.search(r"Configuration file '[^']*' does not exist", said):
        return Failure("not_found", f"Container {container} is not on {host}.", "Check its id.")
    if re.search(r"container '[^']*' not running", said):
        return Failure("not_running", f"{which} is not running.", "Start it first.")
    if "Failed to get init pid" in said:
        return Failure("not_running", f"{which} is not running, or there is none of this name.", "Start it first.")
    if re.search(rf"{tool}: (command )?not found", said):
        return Failure("command_missing", f"There is no {tool} on {host}.", "Give a host that runs the container.")
    if re.search(r"Failed to exec \"(/bin/)?(sh|su)\"", said):
        return Failure(
            "command_missing", f"{which} has no shell, or no su: {said}.", "A connection needs /bin/sh there."
        )
    return Failure(
        "not_entered",
        f"{which} could not be entered, or the command was ended from outside: {said or 'nothing was said'}.",
        "See whether the container runs, and whether the user of the node may run this.",
    )


def _sentence(output: str) -> str:
    return " ".join(output.split()).rstrip(".")


# ------------------------------------------------------------------------------------------------------------- files


def put_script(path: str, part: str, size: int) -> str:
    """A script that makes a file of its standard input; it is there whole, or not at all.

    It ends with ``MISSING`` (no such directory), ``DIRECTORY`` (the path is one), ``SHORT`` (not all has come) or
    ``REFUSED``, see standard error.

    part: the name until it is complete, in the same directory.
    size: in bytes.
    """
    return f"set -- {shlex.join([directory_of(path), path, part, str(size)])}{_PUT}"


def fetch_script(path: str, mark: str) -> str:
    """A script that writes a file to its standard output, and before it its size to standard error.

    It ends with ``MISSING``, ``DIRECTORY`` or ``REFUSED``. The size of what is no regular file is said to be 0.
    """
    return f"set -- {shlex.join([path, mark])}{_FETCH}"


def fetched_size(stderr: bytes, mark: str) -> int | None:
    """The size that ``fetch_script`` has told."""
    found = re.search(re.escape(mark.encode()) + rb"(\d+)\r?\n", stderr)
    return int(found[1]) if found else None


def directory_of(path: str) -> str:
    """The directory that a file of the container is in."""
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def transfer_failure(rc: int, stderr: str, path: str, where: str) -> Failure:
    """What the exit code of a transfer means."""
    said = _sentence(stderr)
    return {
        MISSING: Failure("not_found", f"There is no {path} in {where}.", "Make it first, or check the name."),
        DIRECTORY: Failure("is_directory", f"{path} in {where} is a directory.", "Give the name of a file."),
        SHORT: Failure(
            "transfer_incomplete",
            f"Not all of {path} has come to {where}.",
            "Nothing was changed there. The file was changed while it was sent, or the connection was broken.",
        ),
    }.get(
        rc,
        Failure(
            "transfer_failed",
            f"{path} in {where}: {said or f'exit code {rc}'}.",
            "Nothing of it was left behind.",
        ),
    )


# ------------------------------------------------------------------------------------------------------------- lookup

# What tells where the guests of a cluster are, on any of its nodes, to root.
RESOURCES = ("pvesh", "get", "/cluster/resources", "--type", "vm", "--output-format", "json")


@dataclass(frozen=True)
class Whereabouts:
    """A container and the node that it is on."""

    vmid: str
    node: str


def whereabouts(listing: str, container: str, host: str) -> Whereabouts:
    """Find a container in what ``RESOURCES`` printed.

    container: the vmid or the hostname.

    Raises:
        Failure: ``not_found``, ``ambiguous_hostname``, ``vmid_in_use`` (a virtual machine has it), ``api_error``.
    """
    try:
        guests = json.loads(listing)
        found = [guest for guest in guests if container in (str(guest["vmid"]), str(guest.get("name", "")))]
    except (ValueError, TypeError, KeyError):
        raise Failure("api_error", f"{host} gave no list of the cluster's guests.", "Try pvesh there.") from None
    by_id = [guest for guest in found if str(guest["vmid"]) == container]
    found = by_id or [guest for guest in found if guest.get("type") == "lxc"]
    if not found:
        raise Failure("not_found", f"The cluster of {host} has no container {container}.", "Check its id or hostname.")
    if len(found) > 1:
        vmids = ", ".join(sorted(str(guest["vmid"]) for guest in found))
        raise Failure("ambiguous_hostname", f"Several containers are called {container}: {vmids}.", "Give the vmid.")
    [guest] = found
    if guest.get("type") != "lxc":
        raise Failure("vmid_in_use", f"{container} is a virtual machine.", "Only containers can be entered.")
    vmid, node = str(guest["vmid"]), str(guest.get("node"))
    if not re.fullmatch(_CONTAINER["pct"], vmid) or not re.fullmatch(NODE, node):
        raise Failure("api_error", f"{host} gave a list with {vmid!r} on {node!r}.", "Try pvesh there.")
    return Whereabouts(vmid, node)

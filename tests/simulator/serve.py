# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves a simulated Proxmox VE cluster until SIGTERM, or until the process that started it is gone.

Prints one line of JSON when it is ready: host, port, ca_path, user, password, token_id, token_secret, control_url.
The control URL is plain HTTP: GET /requests, /stats, /table; POST /reset, /fault {method, args, kwargs},
/containers {containers: [...]}.

When standard input is a pipe, its end is the end of the server.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulator.cluster import Cluster
from simulator.serving import Simulator, make_certificates

PR_SET_PDEATHSIG = 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--time-scale", type=float, default=1.0, help="real seconds for each second of a task")
    parser.add_argument("--latency", type=float, default=0.0, help="real seconds before each answer")
    parser.add_argument("--create-secs", type=float, default=3.0)
    parser.add_argument("--start-secs", type=float, default=1.0)
    parser.add_argument("--snapshot-secs", type=float, default=1.0)
    parser.add_argument("--lag", type=float, default=10.0, help="real seconds by which /cluster/resources is behind")
    parser.add_argument("--refusal-secs", type=float, default=0.0, help="real seconds before a 401; Proxmox takes 3")
    parser.add_argument("--directory", type=Path, help="of the certificates; by default one that goes at the end")
    return parser.parse_args()


def build(options: argparse.Namespace) -> Cluster:
    """The cluster that the command line describes."""
    cluster = Cluster(nodes=[f"pve{number + 1}" for number in range(options.nodes)])
    cluster.time_scale, cluster.lag, cluster.latency = options.time_scale, options.lag, options.latency
    cluster.ct_secs.update(create=options.create_secs, snapshot=options.snapshot_secs)
    cluster.start_secs, cluster.refusal_secs = options.start_secs, options.refusal_secs
    return cluster


def wait_for_the_end(wake: int) -> None:
    """Return on a signal, or when whoever started this is gone."""
    watched = [wake]
    parent = os.getppid()
    with contextlib.suppress(OSError):
        mode = os.fstat(0).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            watched.append(0)
    if len(watched) == 1:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    while os.getppid() == parent:
        ready, _writable, _broken = select.select(watched, [], [], 5)
        if wake in ready or (0 in ready and not os.read(0, 4096)):
            return


def main() -> None:
    """Serve."""
    options = arguments()
    wake, wakened = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(wakened, b"."))
    directory = options.directory or Path(tempfile.mkdtemp(prefix="simulator-"))
    try:
        with Simulator(build(options), make_certificates(directory), options.port, control=True) as simulator:
            print(json.dumps(simulator.address), flush=True)
            wait_for_the_end(wake)
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""What the drivers over several hosts share: their arguments, and how they come to run beside the hosts of tools/hosts.sh."""

import argparse
import os
import re
import sys

from driver import ROOT, UsageError
from jobs import Job

TOOL = os.path.join(ROOT, "tools", "hosts.sh")
INTERFACE = "eth0"
BITS = {"k": 10**3, "m": 10**6, "g": 10**9}


def layout(text):
    if not re.fullmatch(r"[1-9]\d?(x[1-9]\d?|(,[1-9]\d?)*)", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of ranks for each host, as in 2x1 or 2,1")
    return text


def rate(text):
    if text != "none" and not re.fullmatch(r"[1-9]\d*[kmg]bit", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no rate, as in 10gbit, or none")
    return text


def add_arguments(parser):
    parser.add_argument("--hosts", type=layout, default="2x1", help="ranks of each host (default 2x1; also 2,1)")
    parser.add_argument("--rate", type=rate, default="10gbit", help="of each link each way (default 10gbit; or none)")


def check(options):
    if len(ranks_of(options)) < 2:
        raise UsageError("--hosts must name two hosts or more")


def ranks_of(options):
    """The number of ranks of each host."""
    count, _, ranks = options.hosts.partition("x")
    return [int(ranks)] * int(count) if ranks else [int(each) for each in options.hosts.split(",")]


def enter(options):
    """Starts this program again beside the hosts, which end with it; returns where it is there already."""
    if "LOCKSTEP_HOST_PROCESSES" not in os.environ:
        sys.stdout.flush()
        os.execv(TOOL, [TOOL, options.hosts, "--rate", options.rate, "run", sys.executable, *sys.argv])


def bytes_a_second(options):
    """What a link carries each way; None where nothing limits it."""
    if options.rate == "none":
        return None
    return int(options.rate[:-4]) * BITS[options.rate[-4]] / 8


def job(start, command, environment=None):
    """`start`: mpirun, or ranks as torchrun starts them."""
    variables = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=INTERFACE, **(environment or {}))
    return Job([[TOOL, start, *command]], [variables])

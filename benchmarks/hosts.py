# SPDX-License-Identifier: BSD-3-Clause
"""What the drivers over several hosts share: their arguments, and how they come to run beside the hosts of tools/hosts.sh."""

import argparse
import os
import re
import statistics
import sys

from driver import ROOT, UsageError, positive
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
    parser.add_argument("--slow-link", type=positive, default=1, help="how many times slower the last host's link is (default 1)")


def complete(options):
    """Checks what was given, and adds `ranks`, the number of all of them."""
    if len(ranks_of(options)) < 2:
        raise UsageError("--hosts must name two hosts or more")
    if options.slow_link > 1 and options.rate == "none":
        raise UsageError("--slow-link needs a --rate")
    options.ranks = sum(ranks_of(options))


def recorded(options):
    """What a record says of the hosts and links."""
    return {"hosts": options.hosts, "rate": options.rate, "slow_link": options.slow_link}


def ranks_of(options):
    """The number of ranks of each host."""
    count, _, ranks = options.hosts.partition("x")
    return [int(ranks)] * int(count) if ranks else [int(each) for each in options.hosts.split(",")]


def enter(options):
    """Starts this program again beside the hosts, which end with it; returns where it is there already."""
    if "LOCKSTEP_HOST_PROCESSES" not in os.environ:
        sys.stdout.flush()
        os.execv(TOOL, [TOOL, options.hosts, *rates(options), "run", sys.executable, *sys.argv])


def rates(options):
    """What the tool is told about the links."""
    if options.slow_link == 1:
        return ["--rate", options.rate]
    kilobits = max(1, round(bytes_a_second(options) * 8 / BITS["k"]))
    return ["--rate", options.rate, "--rate", f"{len(ranks_of(options))}:{kilobits}kbit"]


def bytes_a_second(options):
    """What the slowest link carries each way; None where nothing limits it."""
    if options.rate == "none":
        return None
    return int(options.rate[:-4]) * BITS[options.rate[-4]] / 8 / options.slow_link


def description(options):
    """Of the hosts and links, for the heading of a table."""
    slow = f", the last one {options.slow_link} times slower" if options.slow_link > 1 else ""
    return f"hosts with {options.hosts} ranks, links of {options.rate}{slow}"


def sent_mib(options, extras):
    """Of each variant: what the host with the slow link sent in a step, or the busiest host where all links are alike."""
    hosts_that_count = slice(-1, None) if options.slow_link > 1 else slice(None)
    return {
        variant: round(statistics.median(max(rank["sent_mib"] for rank in ranks[hosts_that_count]) for ranks in rounds), 3)
        for variant, rounds in extras.items()
    }


def of_link(options, sent, medians):
    """Of each variant: the bytes sent in a step, over its time, over what the slowest link carries; None without a rate."""
    link = bytes_a_second(options)
    return {
        variant: round(mib * 2**20 / (medians[variant] / 1e3) / link, 4) if link else None for variant, mib in sent.items()
    }


def job(start, command, environment=None):
    """`start`: mpirun, or ranks as torchrun starts them."""
    variables = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=INTERFACE, **(environment or {}))
    return Job([[TOOL, start, *command]], [variables])

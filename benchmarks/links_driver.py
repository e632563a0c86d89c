# SPDX-License-Identifier: BSD-3-Clause
"""Times an all-reduce between hosts by Lockstep, MPI and gloo for many sizes, prints tables and a result line.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import re
import sys
import tempfile

import collectives_driver as collectives
import hosts
from driver import NOT_MEASURED, Parser, append_record, main, print_result, shown
from jobs import JobError

# What each side is called in the table; the order of the table.
SIDES = {
    "lockstep": "Lockstep, ranks of mpirun",
    "lockstep_torchrun": "Lockstep, ranks as torchrun starts them",
    "mpi": "MPI itself",
    "gloo": "c10d gloo",
}
NAMED_SIZE = 64 << 20


def parse(arguments):
    parser = Parser("links", __doc__, ("the run", 3000))
    hosts.add_arguments(parser)
    parser.number("--rounds", 5, "turns of all sides for each size")
    collectives.add_sizes(parser)
    options = parser.parse(arguments)
    collectives.check_sizes(parser, options)
    hosts.complete(options)
    options.op = "all_reduce"
    return options


def run_ranks(options, output):
    """Returns the backend that Lockstep chose for each of its sides."""
    command = [options.program, "--op", options.op, "--rounds", str(options.rounds), "--output", output]
    command += ["--sizes", *map(str, collectives.sizes_of(options))]
    # Where the ranks of the side that torchrun would start meet.
    meeting = {"MASTER_ADDR": "h1", "MASTER_PORT": "29500"}
    text = hosts.job("mpirun", command, meeting).wait(options.deadline)
    return dict(re.findall(r"^backend (\w+) (\w+)$", text, re.MULTILINE))


def of_link(options, medians):
    """Of each side and size: the bytes that a host with one rank sends at least, over time and rate; None without a rate."""
    link = hosts.bytes_a_second(options)
    factor = collectives.bus_factor(options.op, len(hosts.ranks_of(options)))
    return {
        side: {size: round(size * factor / (time * 1e-6) / link, 4) if link else None for size, time in sizes.items()}
        for side, sizes in medians.items()
    }


def print_summary(medians, shares):
    """One line a size: the times of all sides, and the ratios of the result line."""
    print(f"{'size (B)':>12}" + "".join(f"{side + ' (us)':>24}" for side in medians) + f"{'vs_mpi':>9}{'vs_gloo':>9}{'of_link':>9}")
    for size, time in medians["lockstep"].items():
        line = f"{size:>12}" + "".join(f"{sizes[size]:>24.1f}" for sizes in medians.values())
        for other in ("mpi", "gloo"):
            line += f"{medians[other][size] / time:>9.2f}" if other in medians else f"{NOT_MEASURED:>9}"
        share = shares["lockstep"][size]
        print(line + (f"{NOT_MEASURED:>9}" if share is None else f"{share:>9.3f}"))


def run(options, command):
    hosts.enter(options)
    with tempfile.TemporaryDirectory() as output:
        backends = run_ranks(options, output)
        times, wrong, _ = collectives.read_figures(options, output)
    medians = collectives.medians_of(options, times, SIDES)
    shares = of_link(options, medians)
    titles = {side: f"{title}: {backends[side]}" if side in backends else title for side, title in SIDES.items()}
    collectives.print_tables(options, medians, times, wrong, titles)
    print(hosts.description(options))
    print_summary(medians, shares)
    ratios = {
        "vs_mpi_min": collectives.smallest_ratio(medians, "mpi", "lockstep", lambda _: True),
        "vs_gloo_min": collectives.smallest_ratio(medians, "gloo", "lockstep", lambda _: True),
        "of_link_64MiB": shares["lockstep"].get(NAMED_SIZE),
        "torchrun_vs_gloo_min": collectives.smallest_ratio(medians, "gloo", "lockstep_torchrun", lambda _: True),
        "torchrun_of_link_64MiB": shares.get("lockstep_torchrun", {}).get(NAMED_SIZE),
    }
    append_record(
        options,
        "links",
        command,
        **hosts.recorded(options),
        unit="microseconds a call of the slowest rank; raw: side -> bytes -> round",
        raw=times,
        medians=medians,
        wrong=wrong,
        of_link=shares,
        ratios=ratios,
        backends=backends,
    )
    print_result(shown(ratios))
    errors = sum(sum(sizes.values()) for sizes in wrong.values())
    if errors:
        raise JobError(f"{errors} elements were wrong; the tables say of whom")


if __name__ == "__main__":
    sys.exit(main("links", parse, run))

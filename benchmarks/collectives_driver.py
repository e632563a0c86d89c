# SPDX-License-Identifier: BSD-3-Clause
"""Times one collective by Lockstep, MPI and gloo for many sizes, prints tables and a result line, appends a record.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import statistics
import sys
import tempfile

from driver import Parser, append_record, main, positive, print_result, shown
from jobs import JobError
from sides import mpi_processes

OPS = ["all_reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all"]
# What each side is called in the table; the order of the table.
SIDES = {
    "lockstep": "Lockstep, registered memory",
    "ordinary": "Lockstep, ordinary memory",
    "lockstep_mpi": "Lockstep over MPI",
    "mpi": "MPI itself",
    "gloo": "c10d gloo",
    "limit": "limit: the same loop, no waiting",
}
SMALLEST = 1 << 10
LARGEST = 256 << 20
LARGE = 1 << 20


def parse(arguments):
    parser = Parser("OP", __doc__, ("the run", 1200))
    parser.add_argument("op", choices=OPS, metavar="OP", help=", ".join(OPS))
    parser.number("--ranks", 2, "processes, one thread each")
    parser.number("--rounds", 5, "turns of all sides for each size")
    add_sizes(parser)
    options = parser.parse(arguments)
    check_sizes(parser, options)
    return options


def add_sizes(parser):
    parser.add_argument("--smallest", type=positive, default=SMALLEST, help=f"bytes (default {SMALLEST})")
    parser.add_argument("--largest", type=positive, default=LARGEST, help=f"bytes (default {LARGEST})")


def check_sizes(parser, options):
    if options.smallest > options.largest:
        parser.error(f"--smallest {options.smallest} is more than --largest {options.largest}")


def sizes_of(options):
    """By powers of 4."""
    sizes = []
    size = options.smallest
    while size <= options.largest:
        sizes.append(size)
        size *= 4
    return sizes


def run_ranks(options, output):
    command = [options.program, "--op", options.op, "--rounds", str(options.rounds), "--output", output]
    command += ["--sizes", *map(str, sizes_of(options))]
    mpi_processes(command, options.ranks, GLOO_SOCKET_IFNAME="lo").wait(options.deadline)


def read_figures(options, output):
    """{side: {size: microseconds of the slowest rank, one a round}}, {side: {size: wrong elements}}"""
    rounds, wrong, fingerprint = {}, {}, 0.0
    for rank in range(options.ranks):
        with open(os.path.join(output, f"rank{rank}.txt"), encoding="ascii") as file:
            for line in file:
                size, side, number, time, errors = line.split()
                if side == "fingerprint":
                    fingerprint = max(fingerprint, float(time))
                    continue
                figures = rounds.setdefault(side, {}).setdefault(int(size), {})
                figures[int(number)] = max(figures.get(int(number), 0.0), float(time))
                errors_so_far = wrong.setdefault(side, {})
                errors_so_far[int(size)] = errors_so_far.get(int(size), 0) + int(errors)
    times = {side: {size: list(by_round.values()) for size, by_round in sizes.items()} for side, sizes in rounds.items()}
    for side, sizes in times.items():
        for size in sizes_of(options):
            if len(sizes.get(size, [])) != options.rounds:
                raise JobError(f"{side} left {len(sizes.get(size, []))} rounds of {size} bytes instead of {options.rounds}")
    return times, wrong, fingerprint


def bus_factor(op, ranks):
    """nccl-tests' factor from the bandwidth of the algorithm to that of the busiest link."""
    if op == "broadcast":
        return 1.0
    return (2.0 if op == "all_reduce" else 1.0) * (ranks - 1) / ranks


def medians_of(options, times, sides):
    """{side: {size: microseconds}}, in the order of `sides`."""
    return {
        side: {size: round(statistics.median(times[side][size]), 3) for size in sizes_of(options)}
        for side in sides
        if side in times
    }


def print_tables(options, medians, times, wrong, titles):
    factor = bus_factor(options.op, options.ranks)
    print(f"{options.op}, float, {options.ranks} ranks, {options.rounds} rounds; the slowest rank's time of one call")
    for side, title in titles.items():
        if side not in medians:
            continue
        print(f"\n# {title}")
        print(f"{'size':>12} {'count':>10} {'time':>12} {'min':>12} {'max':>12} {'algbw':>8} {'busbw':>8} {'#wrong':>7}")
        print(f"{'(B)':>12} {'(floats)':>10} {'(us)':>12} {'(us)':>12} {'(us)':>12} {'(GB/s)':>8} {'(GB/s)':>8}")
        for size, time in medians[side].items():
            algorithm = size / time / 1e3
            figures = times[side][size]
            errors = "n/a" if side == "limit" else wrong[side][size]
            print(
                f"{size:>12} {size // 4:>10} {time:>12.2f} {min(figures):>12.2f} {max(figures):>12.2f}"
                f" {algorithm:>8.2f} {algorithm * factor:>8.2f} {errors:>7}"
            )
    print()


def smallest_ratio(medians, above, below, keeps):
    if above not in medians or below not in medians:
        return None
    ratios = [medians[above][size] / time for size, time in medians[below].items() if keeps(size)]
    return round(min(ratios), 3) if ratios else None


def ratios_of(medians, fingerprint):
    """Above 1 is in favour of the side that the name begins with, or of Lockstep in registered memory."""
    def large(size):
        return size >= LARGE

    def every(_):
        return True

    ratios = {
        "vs_gloo_min": smallest_ratio(medians, "gloo", "lockstep", every),
        "vs_mpi_large_min": smallest_ratio(medians, "mpi", "lockstep", large),
        "vs_mpi_small_min": smallest_ratio(medians, "mpi", "lockstep", lambda size: not large(size)),
        "of_limit_large_min": smallest_ratio(medians, "limit", "lockstep", large),
        "ordinary_vs_gloo_min": smallest_ratio(medians, "gloo", "ordinary", every),
    }
    if LARGE in medians["lockstep"]:
        ratios["fingerprint_share_1MiB"] = round(fingerprint / medians["lockstep"][LARGE], 5)
    return ratios


def run(options, command):
    with tempfile.TemporaryDirectory() as output:
        run_ranks(options, output)
        times, wrong, fingerprint = read_figures(options, output)
    medians = medians_of(options, times, SIDES)
    ratios = ratios_of(medians, fingerprint)
    print_tables(options, medians, times, wrong, SIDES)
    append_record(
        options,
        options.op,
        command,
        file_name="collectives.jsonl",
        ranks=options.ranks,
        unit="microseconds a call of the slowest rank; raw: side -> bytes -> round",
        raw=times,
        medians=medians,
        wrong=wrong,
        ratios=ratios,
    )
    shares = {name: value for name, value in ratios.items() if "share" in name}
    print_result({**shown(ratios), **shown(shares, ".4f")})
    errors = sum(sum(sizes.values()) for sizes in wrong.values())
    if errors:
        raise JobError(f"{errors} elements were wrong; the tables say of whom")


if __name__ == "__main__":
    sys.exit(main("", parse, run))

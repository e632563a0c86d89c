# SPDX-License-Identifier: BSD-3-Clause
"""Runs the benchmark of cold reads: a loader that reads ahead against one that reads when asked, cold and warm, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import subprocess
import sys

from driver import ROOT, Parser, append_record, main, pairs, print_result, rounded, show_progress, shown, versions_of
from jobs import JobError
from sides import chosen, figures_in, in_turns, one_process, print_table, ratio

SOURCES = ["bytes", "images", "tar"]
ENGINES = {
    "pread_1": ["--engine", "pread"],
    "pool_8": ["--engine", "pool", "--depth", "32", "--threads", "8"],
    "ring_32": ["--engine", "ring", "--depth", "32"],
    "direct_pread_1": ["--engine", "pread", "--direct"],
    "direct_pool_32": ["--engine", "pool", "--direct", "--depth", "32", "--threads", "32"],
    "direct_ring_32": ["--engine", "ring", "--direct", "--depth", "32"],
}


def parse(arguments):
    parser = Parser("cold_read", __doc__, ("a start", 120))
    parser.number("--rounds", 5, "starts of each variant")
    parser.number("--files", 2000, "images")
    parser.add_argument("--source", choices=SOURCES, action="append", help="what is read (default: all)")
    parser.number("--workers", 2, "of the variants with workers")
    parser.number("--read-ahead", 64, "samples")
    parser.add_argument("--warm-seconds", type=float, default=1.0, help="a warm start is timed for so long (default 1)")
    parser.add_argument("--no-engines", action="store_true", help="leave the read engines out")
    parser.add_argument("--folder", help="where the files are written, on the disk to measure (default: build)")
    parser.add_argument("--drop-all", action="store_true",
                        help="also drop names and inodes of all files, which needs root and slows other programs")
    return parser.parse(arguments)


def make_files(options):
    """The folder of the files, which stay there for the next run."""
    folder = os.path.join(options.folder or os.path.join(ROOT, "build", "benchmark_data"), f"cold_read_{options.files}")
    if not os.path.exists(os.path.join(folder, "complete")):
        show_progress("writing the files")
        subprocess.run(["rm", "-rf", folder], check=True)
        os.makedirs(folder)
        one_process([options.program, "--root", folder, "--make-files", str(options.files)]).wait(600)
        with open(os.path.join(folder, "complete"), "w", encoding="ascii"):
            pass
        # Writes the index beside the archive.
        start(options, folder, ["--source", "tar", "--warm"])
    return folder


def start(options, folder, arguments):
    if options.drop_all and "--warm" not in arguments:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("2\n")
    job = one_process([options.program, "--root", folder, *arguments], OMP_NUM_THREADS="1")
    return figures_in(job.wait(options.deadline))


def variants_of(options):
    """Name: arguments. `one_reader` reads when it is asked; the others read ahead, or have workers, or both."""
    ahead, workers = ["--read-ahead", str(options.read_ahead)], ["--workers", str(options.workers)]
    variants = {}
    sides = {"one_reader": [], "ahead": ahead, "workers": workers, "workers_ahead": workers + ahead}
    for source in options.source or SOURCES:
        for name, arguments in sides.items():
            if source == "images" and "workers" in name:
                continue  # decoding takes the time, and the cores
            for heat in ("cold", "warm"):
                more = ["--warm", "--warm-seconds", str(options.warm_seconds)] if heat == "warm" else []
                variants[f"{source}_{name}_{heat}"] = ["--source", source, *arguments, *more]
    return variants


def run_rounds(options, folder):
    """Samples, or reads, a second. An engine that this kernel lacks is left out."""
    variants = {**variants_of(options), **({} if options.no_engines else ENGINES)}
    raw, sums = {}, {}
    for name, starts in in_turns(options, variants, lambda name: start(options, folder, variants[name])).items():
        if "engine" in starts[0]:
            used = {figures["engine"] for figures in starts}
            if used == {"io_uring"} or not name.startswith(("ring", "direct_ring")):
                raw[name] = [figures["reads_per_second"] for figures in starts]
        else:
            sums.setdefault(name.split("_")[0], set()).update(figures["target_sum"] for figures in starts)
            raw[name] = [figures["samples_per_second"] for figures in starts]
    for source, found in sums.items():
        if len(found) > 1:
            raise JobError(f"{source}: the variants delivered different samples: {found}")
    return raw


def disk_of(folder):
    """What the kernel reads around a fault and at a time: warm and cold figures depend on it. None where there is no disk."""
    device = os.stat(folder).st_dev
    path = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    settings = {}
    for name in ("read_ahead_kb", "max_sectors_kb"):
        for place in (path, os.path.dirname(path)):  # a partition has its disk's
            try:
                with open(os.path.join(place, "queue", name), encoding="ascii") as file:
                    settings[name] = int(file.read())
                break
            except (OSError, ValueError):
                settings[name] = None
    return settings


def run(options, command):
    versions = versions_of(options.program)
    folder = make_files(options)
    raw = run_rounds(options, folder)
    print(f"{options.files} files, {options.rounds} rounds; samples, or reads of 64 KiB, a second")
    print_table(raw, "variant", 28, "9.0f")
    ratios = {}
    for source in options.source or SOURCES:
        for key, name, other in (("", "ahead", "one_reader"), ("_workers", "workers_ahead", "workers")):
            for heat in ("cold", "warm"):
                ratios[f"{source}{key}_{heat}"] = ratio(raw, f"{source}_{name}_{heat}", f"{source}_{other}_{heat}")
    for name in ("pool_8", "direct_pool_32", "direct_ring_32"):
        other = "direct_pread_1" if name.startswith("direct") else "pread_1"
        ratios[f"engine_{name}"] = ratio(raw, name, other)
    measured = shown({name: value for name, value in ratios.items() if value is not None})
    print(pairs(measured), flush=True)
    append_record(
        options,
        "cold_read",
        command,
        versions=versions,
        **chosen(options, ["files", "read_ahead", "workers", "drop_all"]),
        **disk_of(folder),
        unit="samples or reads a second, raw: variant -> round",
        raw={name: [round(value, 1) for value in values] for name, values in raw.items()},
        ratios=rounded(ratios),
    )
    first = (options.source or SOURCES)[0]
    head = {"vs_one_reader": measured[f"{first}_cold"], "warm": measured[f"{first}_warm"]}
    if "tar_cold" in measured:
        head["tar_vs_one_reader"] = measured["tar_cold"]
    print_result({**head, **measured})


if __name__ == "__main__":
    sys.exit(main("cold_read", parse, run))

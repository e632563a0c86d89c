# SPDX-License-Identifier: BSD-3-Clause
"""Measures Lockstep's DataLoader and Python's in turns, prints tables and a result line, appends a record.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import statistics
import sys
import tempfile

from driver import Parser, append_record, main, output_of, positive, print_result, show_progress, shown, versions_of
from jobs import JobError
from sides import figures_in, in_turns, one_process, program_of

WORKLOADS = ["fmnist", "synthetic", "jpeg"]
WORKERS = [0, 1, 2]
PHOTOGRAPHS = 640
ALIKE = 0.2  # the pixels of other crops of the same photographs differ in their sum by at most this share
# The sides; Python's second way to decode is for photographs only, its datasets of whole batches for Fashion-MNIST.
LOCKSTEP, PYTORCH, PYTORCH_IO, PYTORCH_BATCHED = "lockstep", "pytorch", "pytorch_io", "pytorch_batched"
# Figure -> its heading and how it is shown.
COLUMNS = {
    "samples_per_second": ("samples/s", "{:,.0f}"),
    "first_batch_ms": ("first batch ms", "{:.1f}"),
    "first_batch_after_set_up_ms": ("after set-up", "{:.2f}"),
    "epoch_gap_ms": ("epoch gap ms", "{:.2f}"),
    "delivery_us_p50": ("ready batch us", "{:.1f}"),
    "delivery_us_p99": ("its p99", "{:.0f}"),
    "rank_faults_a_batch": ("faults rank", "{:.2f}"),
    "worker_faults_a_batch": ("faults workers", "{:.2f}"),
    "worker_private_mib": ("MiB a worker", "{:.1f}"),
}


def parse(arguments):
    parser = Parser("data_loader", __doc__, ("a start", 300))
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="only this one; may be given again")
    parser.number("--rounds", 5, "starts of each side")
    parser.number("--seconds", 2, "timed for each number of workers")
    parser.number("--batch", 64, "samples")
    parser.number("--quality", 90, "of the JPEG files")
    parser.add_argument("--photographs", type=positive, default=PHOTOGRAPHS, help=f"JPEG files (default {PHOTOGRAPHS})")
    parser.add_argument("--kind", choices=["process", "thread"], default="process", help="of Lockstep's workers")
    parser.add_argument("--fmnist", default="/usr/share/datasets/fashion-mnist", help="folder of Fashion-MNIST")
    return parser.parse(arguments)


def variables(options):
    paths = [options.torchvision, os.environ.get("PYTHONPATH", "")]
    return {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def command_of(options, side, workload, root):
    arguments = ["--workload", workload, "--root", root, "--batch", str(options.batch)]
    arguments += ["--seconds", str(options.seconds), "--workers", *map(str, WORKERS)]
    # Photographs take longer than a program computes between two batches: none would be ready.
    arguments += ["--deliveries", "0" if workload == "jpeg" else "300"]
    if side == LOCKSTEP:
        return [*program_of(options), *arguments, "--kind", options.kind]
    arguments += ["--decoder", "io" if side == PYTORCH_IO else "pillow"]
    arguments += ["--batched"] if side == PYTORCH_BATCHED else []
    return [*program_of(options, "data_loader.py"), *arguments]


def run_once(options, side, workload, root):
    """Figures of one start: a dictionary for each number of workers."""
    job = one_process(command_of(options, side, workload, root), **variables(options))
    return figures_in(job.wait(options.deadline))


def check_alike(rounds, workload):
    """Both sides must have delivered the same samples. Crops of photographs are drawn by different generators."""
    sums = {}
    for side, figures in rounds.items():
        for figure in (figure for start in figures for figure in start):
            data = None if workload == "jpeg" else round(figure["data_sum"], 1)
            sums.setdefault((figure["target_sum"], data), []).append(side)
    if len(sums) > 1:
        raise JobError(f"{workload}: the sides delivered different samples: {sums}")
    if workload != "jpeg":
        return
    means = {side: statistics.mean(f["data_sum"] for start in starts for f in start) for side, starts in rounds.items()}
    if max(means.values()) - min(means.values()) > ALIKE * max(map(abs, means.values())):
        raise JobError(f"{workload}: the sides delivered different photographs, their sums are {means}")


def run_rounds(options, sides, workload, root):
    rounds = in_turns(options, sides, lambda side: run_once(options, side, workload, root), workload)
    check_alike(rounds, workload)
    return rounds


def medians_of(rounds):
    """Side -> number of workers -> figure -> median of the rounds."""
    medians = {}
    for side, starts in rounds.items():
        for index, workers in enumerate(WORKERS):
            names = [n for n, value in starts[0][index].items() if isinstance(value, (int, float))]
            medians.setdefault(side, {})[workers] = {
                name: statistics.median(float(start[index][name]) for start in starts) for name in names
            }
    return medians


def print_table(options, workload, medians, rounds):
    print(f"{workload}, batch {options.batch}, {options.rounds} rounds of {options.seconds} s; medians")
    print(f"{'side':<16} {'workers':>7}" + "".join(f"{heading:>16}" for heading, _ in COLUMNS.values()))
    for side, settings in medians.items():
        for workers, figures in settings.items():
            cells = (form.format(figures[name]) if name in figures else "" for name, (_, form) in COLUMNS.items())
            print(f"{side:<16} {workers:>7}" + "".join(f"{cell:>16}" for cell in cells))
    speeds = {
        f"{side}/{workers}": [start[index]["samples_per_second"] for start in starts]
        for side, starts in rounds.items()
        for index, workers in enumerate(WORKERS)
    }
    print("samples/s, least to most: ", end="")
    print(", ".join(f"{name} {min(values):,.0f} to {max(values):,.0f}" for name, values in speeds.items()))
    print()


def best(medians, side):
    return max(figures["samples_per_second"] for figures in medians[side].values())


def summarize(all_medians):
    """Above 1 is in favour of Lockstep, but for the microseconds, and what the kernel counts a batch."""
    ratios = {}
    for workload, medians in all_medians.items():
        others = [side for side in medians if side not in (LOCKSTEP, PYTORCH_BATCHED)]
        if others:
            ratios[workload] = best(medians, LOCKSTEP) / max(best(medians, side) for side in others)
    figures = {workload: medians[LOCKSTEP] for workload, medians in all_medians.items()}
    busy = [f for settings in figures.values() for workers, f in settings.items() if workers > 0]
    if "fmnist" in all_medians and PYTORCH in all_medians["fmnist"]:
        own, others = all_medians["fmnist"][LOCKSTEP], all_medians["fmnist"][PYTORCH]
        ratios["fmnist_vs_2_workers"] = best(all_medians["fmnist"], LOCKSTEP) / others[2]["samples_per_second"]
        ratios["fmnist_vs_whole_batches"] = best(all_medians["fmnist"], LOCKSTEP) / best(
            all_medians["fmnist"], PYTORCH_BATCHED
        )
        for name in ["first_batch", "first_batch_after_set_up"]:
            ratios[name] = others[2][f"{name}_ms"] / own[2][f"{name}_ms"]
    deliveries = [f["delivery_us_p50"] for f in busy if "delivery_us_p50" in f]
    if deliveries:
        ratios["delivery_us_p50"] = max(deliveries)
        calls = [f["delivery_system_calls_p50"] for f in busy if "delivery_system_calls_p50" in f]
        ratios["delivery_system_calls"] = max(calls) if calls else None
    ratios["copied_batches"] = sum(f["copied_batches"] for f in busy)
    ratios["rank_faults"] = max(f["rank_faults_a_batch"] for f in busy)
    ratios["worker_faults"] = max(f["worker_faults_a_batch"] for f in busy)
    ratios["descriptors"] = max(f["descriptors_a_batch"] for f in busy)
    ratios["worker_mib"] = max(f["worker_private_mib"] for f in busy)
    return {name: value if value is None else round(value, 3) for name, value in ratios.items()}


def print_ratios(ratios):
    names = ["fmnist", "synthetic", "jpeg", "first_batch", "delivery_us_p50"]
    names += [name for name in ratios if name not in names]
    print_result(shown({name: ratios.get(name) for name in names}))


def find_versions(options):
    versions = versions_of(options.program)
    for name, probe in [
        ("python_torch", "import torch; print(torch.__version__)"),
        ("torchvision", "import torchvision, PIL; print(torchvision.__version__, 'Pillow', PIL.__version__)"),
    ]:
        environment = dict(os.environ, **variables(options))
        version = options.python and output_of([options.python, "-c", probe], env=environment)
        if version:
            versions[name] = version
    return versions


def sides_of(workload, versions):
    if "python_torch" not in versions:
        print("benchmark: no Python here can import torch: Lockstep only", file=sys.stderr)
        return [LOCKSTEP]
    if workload == "fmnist":
        return [LOCKSTEP, PYTORCH, PYTORCH_BATCHED]
    if workload == "synthetic":
        return [LOCKSTEP, PYTORCH]
    if "torchvision" not in versions:
        print("benchmark: no torchvision for this Python: photographs with Lockstep only", file=sys.stderr)
        return [LOCKSTEP]
    return [LOCKSTEP, PYTORCH, PYTORCH_IO]


def workloads_of(options):
    """Fashion-MNIST only where it is, unless it was asked for by its name."""
    if options.workload or os.path.isdir(options.fmnist):
        return options.workload or WORKLOADS
    print(f"benchmark: there is no {options.fmnist}: Fashion-MNIST is left out", file=sys.stderr)
    return [workload for workload in WORKLOADS if workload != "fmnist"]


def make_photographs(options, folder):
    """Returns their mean size in bytes."""
    show_progress("making photographs")
    arguments = ["--make-photographs", str(options.photographs), "--quality", str(options.quality), "--root", folder]
    one_process([*program_of(options), *arguments], **variables(options)).wait(options.deadline)
    show_progress("")
    sizes = [os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names]
    return round(statistics.mean(sizes))


def run(options, command):
    versions = find_versions(options)
    raw, all_medians, file_bytes = {}, {}, None
    with tempfile.TemporaryDirectory() as folder:
        for workload in workloads_of(options):
            root = options.fmnist if workload == "fmnist" else folder
            if workload == "jpeg":
                file_bytes = make_photographs(options, folder)
            raw[workload] = run_rounds(options, sides_of(workload, versions), workload, root)
            all_medians[workload] = medians_of(raw[workload])
            print_table(options, workload, all_medians[workload], raw[workload])
    ratios = summarize(all_medians)
    append_record(
        options,
        "data_loader",
        command,
        versions=versions,
        batch=options.batch,
        kind=options.kind,
        photograph_bytes=file_bytes,
        unit="raw: workload -> side -> round -> number of workers",
        raw=raw,
        ratios=ratios,
    )
    print_ratios(ratios)


if __name__ == "__main__":
    sys.exit(main("data_loader", parse, run))

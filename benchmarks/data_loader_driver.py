# SPDX-License-Identifier: BSD-3-Clause
"""Measures Lockstep's DataLoader and Python's in turns, prints tables and a result line, appends a record.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import argparse
import datetime
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile

import machine
from jobs import Job, JobError

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
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


class UsageError(Exception):
    pass


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def positive(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


positive.__name__ = "positive number"  # argparse names the type in its message


def parse(arguments):
    parser = Parser(prog="benchmarks/run.sh data_loader", allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="only this one; may be given again")
    parser.add_argument("--rounds", type=positive, default=5, help="starts of each side (default 5)")
    parser.add_argument("--seconds", type=positive, default=2, help="timed for each number of workers (default 2)")
    parser.add_argument("--batch", type=positive, default=64, help="samples (default 64)")
    parser.add_argument("--quality", type=positive, default=90, help="of the JPEG files (default 90)")
    parser.add_argument("--photographs", type=positive, default=PHOTOGRAPHS, help=f"JPEG files (default {PHOTOGRAPHS})")
    parser.add_argument("--kind", choices=["process", "thread"], default="process", help="of Lockstep's workers")
    parser.add_argument("--fmnist", default="/usr/share/datasets/fashion-mnist", help="folder of Fashion-MNIST")
    parser.add_argument("--deadline", type=positive, default=300, help="seconds a start may take (default 300)")
    parser.add_argument("--no-record", action="store_true", help="append nothing to benchmarks/records")
    # For run.sh:
    parser.add_argument("--program", help=argparse.SUPPRESS)
    parser.add_argument("--python", help=argparse.SUPPRESS)
    parser.add_argument("--torchvision", default="", help=argparse.SUPPRESS)
    parser.add_argument("--check-arguments", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def environment(options):
    paths = [options.torchvision, os.environ.get("PYTHONPATH", "")]
    return dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, paths)))


def command_of(options, side, workload, root):
    arguments = ["--workload", workload, "--root", root, "--batch", str(options.batch)]
    arguments += ["--seconds", str(options.seconds), "--workers", *map(str, WORKERS)]
    # Photographs take longer than a program computes between two batches: none would be ready.
    arguments += ["--deliveries", "0" if workload == "jpeg" else "300"]
    if side == LOCKSTEP:
        return [options.program, *arguments, "--kind", options.kind]
    arguments += ["--decoder", "io" if side == PYTORCH_IO else "pillow"]
    arguments += ["--batched"] if side == PYTORCH_BATCHED else []
    return [options.python, os.path.join(FOLDER, "data_loader.py"), *arguments]


def run_once(options, side, workload, root):
    """Figures of one start: a dictionary for each number of workers."""
    job = Job([command_of(options, side, workload, root)], [environment(options)])
    return json.loads(job.wait(options.deadline).splitlines()[-1])


def show_progress(text):
    """One line that changes, on a terminal only; logs get the table alone."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


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
    """Each round starts each side once, in an order that turns, so that drift of the machine hits all alike."""
    rounds = {side: [] for side in sides}
    for number in range(options.rounds):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            show_progress(f"{workload}: round {number + 1} of {options.rounds}, {side}")
            try:
                rounds[side].append(run_once(options, side, workload, root))
            except (JobError, OSError, ValueError, IndexError) as error:
                show_progress("")
                raise JobError(f"{side}, {workload}, round {number + 1}: {error}") from None
    show_progress("")
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


def print_result(ratios):
    names = ["fmnist", "synthetic", "jpeg", "first_batch", "delivery_us_p50"]
    names += [name for name in ratios if name not in names]
    shown = (f"{name}={ratios[name]:.2f}" if ratios.get(name) is not None else f"{name}=n/a" for name in names)
    print("result: " + " ".join(shown), flush=True)


def append_record(options, versions, command, file_bytes, raw, ratios):
    record = {
        "benchmark": "data_loader",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **machine.commit(ROOT),
        "machine": machine.facts(),
        "os": machine.operating_system(),
        "versions": versions,
        "command": command,
        "batch": options.batch,
        "kind": options.kind,
        "photograph_bytes": file_bytes,
        "unit": "raw: workload -> side -> round -> number of workers",
        "raw": raw,
        "ratios": ratios,
    }
    folder = os.path.join(FOLDER, "records")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "data_loader.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def output_of(command, **arguments):
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **arguments)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def find_versions(options):
    description = output_of([options.program, "--describe"])
    if not description:
        raise JobError(f"{os.path.basename(options.program)} --describe failed")
    versions = dict(line.split(" ", 1) for line in description.splitlines())
    for name, probe in [
        ("python_torch", "import torch; print(torch.__version__)"),
        ("torchvision", "import torchvision, PIL; print(torchvision.__version__, 'Pillow', PIL.__version__)"),
    ]:
        version = options.python and output_of([options.python, "-c", probe], env=environment(options))
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


def make_photographs(options, folder):
    """Returns their mean size in bytes."""
    show_progress("making photographs")
    arguments = ["--make-photographs", str(options.photographs), "--quality", str(options.quality), "--root", folder]
    Job([[options.program, *arguments]], [environment(options)]).wait(options.deadline)
    show_progress("")
    sizes = [os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names]
    return round(statistics.mean(sizes))


def run(options, command):
    versions = find_versions(options)
    raw, all_medians, file_bytes = {}, {}, None
    with tempfile.TemporaryDirectory() as folder:
        for workload in options.workload or WORKLOADS:
            root = options.fmnist if workload == "fmnist" else folder
            if workload == "jpeg":
                file_bytes = make_photographs(options, folder)
            raw[workload] = run_rounds(options, sides_of(workload, versions), workload, root)
            all_medians[workload] = medians_of(raw[workload])
            print_table(options, workload, all_medians[workload], raw[workload])
    ratios = summarize(all_medians)
    if not options.no_record:
        append_record(options, versions, command, file_bytes, raw, ratios)
    print_result(ratios)


def visible(arguments):
    """The command as a person would type it, without what run.sh added."""
    kept = [a for a in arguments if not a.startswith(("--program=", "--python=", "--torchvision="))]
    return shlex.join(["benchmarks/run.sh", "data_loader", *kept])


def main(arguments):
    try:
        options = parse(arguments)
        if options.check_arguments:
            return 0
        if not options.program:
            raise UsageError("start it through benchmarks/run.sh data_loader")
    except UsageError as error:
        print(f"data_loader: {error}", file=sys.stderr)
        return 2
    # So that the processes of a job are ended when this one is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options, visible(arguments))
    except JobError as error:
        print(f"data_loader: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

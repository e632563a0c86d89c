# SPDX-License-Identifier: BSD-3-Clause
"""Runs the data_parallel benchmark: two ranks as threads and as processes, and LibTorch's own way, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import glob
import os
import statistics
import sys
import tempfile

from ddp_step_driver import rank_environments, read_extras
from driver import Parser, append_record, main, positive, print_result, show_progress, versions_of
from jobs import Job, JobError

VARIANTS = ["processes", "threads", "step", "libtorch"]
# Part of the loss by which two programs may differ that add in other orders.
SAME_LOSS = 1e-3


def parse(arguments):
    parser = Parser("data_parallel", __doc__, ("a start", 300))
    parser.add_argument("--batch", type=positive, help="images a rank and step (default: 32, then 4)")
    parser.add_argument("--arch", choices=["resnet18", "resnet34"], default="resnet18", help="model (default resnet18)")
    parser.add_argument("--rounds", type=positive, default=5, help="starts of each variant (default 5)")
    parser.add_argument("--steps", type=positive, help="timed steps a start (default: 12, or 30 below batch 16)")
    parser.add_argument("--warmup", type=positive, default=4, help="steps before the timed ones (default 4, at least 2)")
    options = parser.parse(arguments)
    options.ranks = 2
    return options


def run_once(options, variant, batch, steps):
    """Starts a variant once; returns the median step of the slowest rank in milliseconds, and what else it tells."""
    with tempfile.TemporaryDirectory() as output:
        command = [options.program, "--variant", variant, "--arch", options.arch, "--batch", str(batch)]
        command += ["--warmup", str(options.warmup), "--steps", str(steps), "--output", output]
        if variant == "processes":
            Job([command] * options.ranks, rank_environments(options)).wait(options.deadline)
        else:
            Job([command], [dict(os.environ)]).wait(options.deadline)
        medians = []
        for path in sorted(glob.glob(os.path.join(output, "rank*.txt"))):
            with open(path, encoding="ascii") as file:
                figures = [float(line) for line in file]
            if len(figures) != steps:
                raise JobError(f"a rank left {len(figures)} figures instead of {steps}")
            medians.append(statistics.median(figures))
        if not medians:
            raise JobError("it left no figures")
        return round(max(medians), 3), read_extras(os.path.join(output, "rank0.extras"))


def run_rounds(options, batch, steps):
    """Each round starts each variant once, in an order that turns, so that drift of the machine hits all alike."""
    raw = {variant: [] for variant in VARIANTS}
    extras = {variant: [] for variant in VARIANTS}
    for number in range(options.rounds):
        turn = number % len(VARIANTS)
        for variant in VARIANTS[turn:] + VARIANTS[:turn]:
            show_progress(f"batch {batch}: round {number + 1} of {options.rounds}, {variant}")
            try:
                figure, more = run_once(options, variant, batch, steps)
            except (JobError, OSError, ValueError) as error:
                show_progress("")
                raise JobError(f"variant {variant}, batch {batch}, round {number + 1}: {error}") from None
            raw[variant].append(figure)
            extras[variant].append(more)
    show_progress("")
    return raw, extras


def summarize(raw, extras):
    ratio = lambda over, under: statistics.median(a / b for a, b in zip(raw[over], raw[under]))
    own, other = (extras[variant][0]["second_loss"] for variant in ("step", "libtorch"))
    return {
        "threads_vs_processes": round(ratio("threads", "processes"), 4),
        "vs_libtorch": round(ratio("libtorch", "step"), 4),
        "same_loss": int(abs(own - other) <= SAME_LOSS * abs(other)),
    }


def print_table(options, batch, raw, extras):
    print(f"{options.arch}, batch {batch} a rank, {options.rounds} rounds; milliseconds a step of the slowest rank")
    print(f"{'variant':<12} {'step':>9} {'min':>9} {'max':>9} {'peak MiB':>9}")
    for variant, times in raw.items():
        peak = statistics.median(more["peak_mib"] for more in extras[variant])
        print(f"{variant:<12} {statistics.median(times):>9.2f} {min(times):>9.2f} {max(times):>9.2f} {peak:>9.0f}")


def run(options, command):
    versions = versions_of(options.program)
    worst = None
    for batch in [options.batch] if options.batch else [32, 4]:
        steps = options.steps or (12 if batch >= 16 else 30)
        raw, extras = run_rounds(options, batch, steps)
        ratios = summarize(raw, extras)
        print_table(options, batch, raw, extras)
        if not options.no_record:
            append_record(
                "data_parallel.jsonl",
                "data_parallel",
                command,
                versions=versions,
                arch=options.arch,
                batch=batch,
                ranks=options.ranks,
                steps=steps,
                unit="ms, raw: variant -> round, median step of the slowest rank",
                raw=raw,
                extras=extras,
                ratios=ratios,
            )
        print(f"batch {batch}: " + " ".join(f"{name}={value}" for name, value in ratios.items()), flush=True)
        if worst is None:
            worst = dict(ratios)
        worst["threads_vs_processes"] = max(worst["threads_vs_processes"], ratios["threads_vs_processes"])
        for name in ("vs_libtorch", "same_loss"):
            worst[name] = min(worst[name], ratios[name])
    print_result({name: f"{value:.2f}" if isinstance(value, float) else value for name, value in worst.items()})


if __name__ == "__main__":
    sys.exit(main("data_parallel", parse, run))

# SPDX-License-Identifier: BSD-3-Clause
"""Runs the data_parallel benchmark: two ranks as threads and as processes, and LibTorch's own way, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import glob
import os
import statistics
import sys
import tempfile

from driver import Parser, append_record, main, pairs, positive, print_result, versions_of
from jobs import JobError
from sides import extras_of_rank, halves, in_turns, lines_of_rank, one_process, print_table, rank_processes, ratio

VARIANTS = ["processes", "threads", "step", "libtorch"]
# Part of the loss by which two programs may differ that add in other orders.
SAME_LOSS = 1e-3


def parse(arguments):
    parser = Parser("data_parallel", __doc__, ("a start", 300))
    parser.add_argument("--batch", type=positive, help="images a rank and step (default: 32, then 4)")
    parser.add_argument("--arch", choices=["resnet18", "resnet34"], default="resnet18", help="model (default resnet18)")
    parser.number("--rounds", 5, "starts of each variant")
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
        job = rank_processes(command, options.ranks) if variant == "processes" else one_process(command)
        job.wait(options.deadline)
        paths = glob.glob(os.path.join(output, "rank*.txt"))
        medians = [statistics.median(line[0] for line in lines_of_rank(path, steps)) for path in paths]
        if not medians:
            raise JobError("it left no figures")
        return round(max(medians), 3), extras_of_rank(os.path.join(output, "rank0.extras"))


def summarize(raw, extras):
    own, other = (extras[variant][0]["second_loss"] for variant in ("step", "libtorch"))
    return {
        "threads_vs_processes": round(ratio(raw, "threads", "processes"), 4),
        "vs_libtorch": round(ratio(raw, "libtorch", "step"), 4),
        "same_loss": int(abs(own - other) <= SAME_LOSS * abs(other)),
    }


def print_figures(options, batch, raw, extras):
    def peak(variant):
        return f" {statistics.median(more['peak_mib'] for more in extras[variant]):>9.0f}"

    print(f"{options.arch}, batch {batch} a rank, {options.rounds} rounds; milliseconds a step of the slowest rank")
    print_table(raw, "variant", 12, "9.2f", "step", f" {'peak MiB':>9}", peak)


def run(options, command):
    versions = versions_of(options.program)
    worst = None
    for batch in [options.batch] if options.batch else [32, 4]:
        steps = options.steps or (12 if batch >= 16 else 30)
        starts = in_turns(options, VARIANTS, lambda variant: run_once(options, variant, batch, steps), f"batch {batch}")
        raw, extras = halves(starts)
        ratios = summarize(raw, extras)
        print_figures(options, batch, raw, extras)
        append_record(
            options,
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
        print(f"batch {batch}: {pairs(ratios)}", flush=True)
        if worst is None:
            worst = dict(ratios)
        worst["threads_vs_processes"] = max(worst["threads_vs_processes"], ratios["threads_vs_processes"])
        for name in ("vs_libtorch", "same_loss"):
            worst[name] = min(worst[name], ratios[name])
    print_result({name: f"{value:.2f}" if isinstance(value, float) else value for name, value in worst.items()})


if __name__ == "__main__":
    sys.exit(main("data_parallel", parse, run))

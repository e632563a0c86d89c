# SPDX-License-Identifier: BSD-3-Clause
"""Runs the variants of the ddp_step benchmark in turns, prints a table and a result line, appends a record.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import re
import shutil
import statistics
import sys
import tempfile

from driver import Parser, append_record, main, positive, print_result, shown
from sides import (
    chosen,
    extras_of_rank,
    find_versions,
    halves,
    in_turns,
    lines_of_rank,
    mpi_processes,
    print_table,
    program_of,
    rank_processes,
)

ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "transformer"]
# Variant -> the variant without communication that it is compared with.
OWN_ALONE = {
    "lockstep": "lockstep_alone",
    "plain_mpi": "lockstep_alone",
    "pytorch_ddp": "pytorch_alone",
    "pytorch_ddp_tuned": "pytorch_alone",
    "lockstep_alone_retained": "lockstep_alone",
    "plain_mpi_retained": "lockstep_alone",
    "lockstep_alone": "lockstep_alone",
    "pytorch_alone": "pytorch_alone",
}


def parse(arguments):
    parser = Parser("ddp_step", __doc__, ("a start", 300))
    parser.number("--ranks", 2, "processes, one thread each")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet18", help="model (default resnet18)")
    parser.add_argument("--batch", type=positive, help="images a rank and step (default: 32, then 4)")
    parser.number("--rounds", 5, "starts of each variant")
    parser.add_argument("--steps", type=positive, help="timed steps a start (default: 20, or 50 below batch 16)")
    parser.number("--warmup", 5, "steps before the timed ones")
    parser.add_argument(
        "--retain-alone",
        action="store_true",
        help="also run the step alone and plain MPI with the malloc settings that Lockstep's DDP makes",
    )
    parser.add_argument("--bucket-cap-mib", type=positive, help="Lockstep's bucket_cap_bytes, in MiB")
    parser.add_argument("--tune-after", type=positive, help="Lockstep's tune_buckets_after; at most --warmup")
    parser.add_argument("--accumulate", type=positive, default=1, help="backwards a step (default 1); the last one averages")
    parser.add_argument("--tuned-pytorch", action="store_true", help="also run PyTorch's DDP with its fastest options")
    parser.add_argument("--overlap", action="store_true", help="also say how much of Lockstep's communication is hidden")
    return with_jobs(parser.parse(arguments), make_job)


def with_jobs(options, make):
    """Sets how a variant is started, and where the names of the backends are kept that Lockstep chose: by variant."""
    options.make_job = make
    options.backends = {}
    return options


def make_job(options, variant, batch, steps, output):
    arguments = ["--variant", variant, "--arch", options.arch, "--batch", str(batch)]
    arguments += ["--warmup", str(options.warmup), "--steps", str(steps), "--output", output]
    arguments += ["--accumulate", str(options.accumulate)]
    if variant == "lockstep":
        arguments += ["--bucket-cap-mib", str(options.bucket_cap_mib or 0), "--tune-after", str(options.tune_after or 0)]
        arguments += ["--overlap"] if getattr(options, "overlap", False) else []
    if variant.startswith("pytorch"):
        return rank_processes([*program_of(options, "ddp_step.py"), *arguments], options.ranks)
    processes = mpi_processes if options.mpi else rank_processes
    return processes([options.program, *arguments], options.ranks)


def run_once(options, variant, batch, steps):
    """Starts a variant once; returns the median milliseconds a step, and what else they tell, of each rank."""
    with tempfile.TemporaryDirectory() as output:
        text = options.make_job(options, variant, batch, steps, output).wait(options.deadline)
        options.backends.update({variant: name for name in re.findall(r"^backend (\w+)$", text, re.MULTILINE)})
        medians, extras = [], []
        for rank in range(options.ranks):
            lines = lines_of_rank(os.path.join(output, f"rank{rank}.txt"), steps)
            medians.append(round(statistics.median(line[0] for line in lines), 3))
            extras.append(extras_of_rank(os.path.join(output, f"rank{rank}.extras")))
        return medians, extras


def run_rounds(options, variants, batch, steps):
    """Variant -> round -> rank: median steps, and what else the ranks tell."""
    starts = in_turns(options, variants, lambda variant: run_once(options, variant, batch, steps), f"batch {batch}")
    return halves(starts)


def worst_extra(extras, variant, name):
    """The median over the rounds of the largest of the ranks' figures; None where nobody tells it."""
    rounds = [[rank[name] for rank in ranks if name in rank] for ranks in extras.get(variant, [])]
    return round(statistics.median(max(ranks) for ranks in rounds), 3) if rounds and all(rounds) else None


def ratio(medians, above, below):
    if above not in medians or below not in medians:
        return None
    return round(medians[above] / medians[below], 3)


def rounds_and_medians(raw):
    """A round's figure is its slowest rank's, the run's the median of its rounds."""
    rounds = {variant: [max(ranks) for ranks in figures] for variant, figures in raw.items()}
    return rounds, {variant: round(statistics.median(figures), 3) for variant, figures in rounds.items()}


def summarize(raw, extras):
    rounds, medians = rounds_and_medians(raw)
    ratios = {
        "lockstep_ratio": ratio(medians, "lockstep", "lockstep_alone"),
        "pytorch_ratio": ratio(medians, "pytorch_ddp", "pytorch_alone"),
        "speedup": ratio(medians, "pytorch_ddp", "lockstep"),
        "vs_plain_mpi": ratio(medians, "plain_mpi", "lockstep"),
    }
    exposed = worst_extra(extras, "lockstep", "exposed_ms")
    ratios["exposed"] = round(exposed / medians["lockstep"], 4) if exposed is not None else None
    for name, own, alone in [
        ("memory_over_gradients", "lockstep", "lockstep_alone"),
        ("pytorch_memory_over_gradients", "pytorch_ddp", "pytorch_alone"),
    ]:
        with_peak, without = (worst_extra(extras, variant, "peak_mib") for variant in (own, alone))
        size = worst_extra(extras, "lockstep", "gradient_mib")
        ratios[name] = round((with_peak - without) / size, 3) if None not in (with_peak, without, size) else None
    return rounds, medians, ratios


def print_figures(options, batch, steps, rounds, medians, extras):
    def more(variant):
        peak, exposed = (worst_extra(extras, variant, name) for name in ("peak_mib", "exposed_ms"))
        own = medians[variant] / medians[OWN_ALONE[variant]]
        return f" {own:>14.3f} {peak:>10.0f}" + (f" {exposed:>12.2f}" if exposed is not None else "")

    print(f"{options.arch}, {options.ranks} ranks, batch {batch} a rank, {options.rounds} rounds of {steps} steps;", end=" ")
    print("milliseconds a step of the slowest rank")
    print_table(rounds, "variant", 24, "9.2f", more_heading="   to own alone   peak MiB   exposed ms", more=more)
    if options.overlap:
        shares = [rank["communication_hidden"] for ranks in extras["lockstep"] for rank in ranks]
        print(f"lockstep: at least {100 * min(shares):.1f} % of the communication hidden, by the traces of all rounds")


def choose_variants(options, versions):
    variants = ["lockstep", "lockstep_alone"]
    if options.mpi:
        variants.append("plain_mpi")
    else:
        print("benchmark: no MPI in this build or no mpirun: plain MPI is left out", file=sys.stderr)
    if options.retain_alone:
        variants += [f"{name}_retained" for name in variants[1:]]
    if "python_torch" in versions:
        variants += ["pytorch_ddp", "pytorch_alone"]
        if options.tuned_pytorch:
            variants.append("pytorch_ddp_tuned")
    else:
        print("benchmark: no Python here can import torch: C++ variants only", file=sys.stderr)
    return variants


def run(options, command):
    versions = find_versions(options)
    options.mpi = "mpi" in versions and shutil.which("mpirun") is not None
    variants = choose_variants(options, versions)
    for batch in [options.batch] if options.batch else [32, 4]:
        steps = options.steps or (20 if batch >= 16 else 50)
        raw, extras = run_rounds(options, variants, batch, steps)
        rounds, medians, ratios = summarize(raw, extras)
        print_figures(options, batch, steps, rounds, medians, extras)
        append_record(
            options,
            "ddp_step",
            command,
            versions=versions,
            **chosen(options, ["ranks", "arch"]),
            batch=batch,
            **chosen(options, ["warmup", "accumulate"]),
            steps=steps,
            unit="milliseconds a step; raw: variant -> round -> rank",
            raw=raw,
            extras=extras,
            medians=medians,
            ratios=ratios,
            backends=options.backends,
        )
        print_result(shown(ratios))


if __name__ == "__main__":
    sys.exit(main("ddp_step", parse, run))

# SPDX-License-Identifier: BSD-3-Clause
"""Times a training step on several hosts, by Lockstep, plain MPI and PyTorch's DDP in turns, and appends a record.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import shutil
import sys

import ddp_step_driver as ddp_step
import hosts
from driver import Parser, append_record, main, positive, print_result, shown
from jobs import JobError
from sides import chosen, find_versions, program_of, spread

# How the ranks of a variant are started, and which variant of ddp_step they run.
VARIANTS = {
    "lockstep_mpirun": ("mpirun", "lockstep"),
    "lockstep_torchrun": ("ranks", "lockstep"),
    "alone": ("mpirun", "lockstep_alone"),
    "plain_mpi": ("mpirun", "plain_mpi"),
    "pytorch_ddp": ("ranks", "pytorch_ddp"),
}
OPTIONAL = ["lockstep_torchrun", "plain_mpi", "pytorch_ddp"]


def parse(arguments):
    parser = Parser("hosts", __doc__, ("a start", 300))
    hosts.add_arguments(parser)
    parser.add_argument("--arch", choices=ddp_step.ARCHITECTURES, default="resnet18", help="model (default resnet18)")
    parser.number("--batch", 32, "images a rank and step")
    parser.number("--rounds", 5, "starts of each variant")
    parser.add_argument("--steps", type=positive, help="timed steps a start (default: 20, or 50 below batch 16)")
    parser.number("--warmup", 5, "steps before the timed ones")
    parser.add_argument("--leave-out", nargs="+", choices=OPTIONAL, default=[], help="variants that do not run")
    options = parser.parse(arguments)
    hosts.complete(options)
    return ddp_step.with_jobs(options, make_job)


def make_job(options, variant, batch, steps, output):
    start, program = VARIANTS[variant]
    arguments = ["--variant", program, "--arch", options.arch, "--batch", str(batch), "--warmup", str(options.warmup)]
    arguments += ["--steps", str(steps), "--output", output, "--interface", hosts.INTERFACE]
    python_file = "ddp_step.py" if program.startswith("pytorch") else None
    return hosts.job(start, [*program_of(options, python_file), *arguments])


def choose_variants(options, versions):
    variants = [variant for variant in VARIANTS if variant not in options.leave_out]
    if "mpi" not in versions or shutil.which("mpirun") is None:
        raise JobError("this benchmark needs MPI, and this build or this machine has none")
    if "pytorch_ddp" in variants and "python_torch" not in versions:
        print("benchmark: no Python here can import torch: C++ variants only", file=sys.stderr)
        variants.remove("pytorch_ddp")
    return variants


def summarize(options, raw, extras):
    """A round's figure is its slowest rank's, the run's the median of its rounds."""
    rounds, medians = ddp_step.rounds_and_medians(raw)
    sent = hosts.sent_mib(options, extras)
    of_link = hosts.of_link(options, sent, medians)
    results = {"ratio": ddp_step.ratio(medians, "lockstep_mpirun", "alone")}
    for other in ("pytorch_ddp", "plain_mpi"):
        results[f"vs_{other}"] = ddp_step.ratio(medians, other, "lockstep_mpirun")
        results[f"torchrun_vs_{other}"] = ddp_step.ratio(medians, other, "lockstep_torchrun")
    results["torchrun_ratio"] = ddp_step.ratio(medians, "lockstep_torchrun", "alone")
    for name, variant in (("", "lockstep_mpirun"), ("torchrun_", "lockstep_torchrun")):
        results[f"{name}exposed_ms"] = ddp_step.worst_extra(extras, variant, "exposed_ms")
    return rounds, medians, sent, of_link, results


def print_table(options, steps, rounds, medians, extras, sent, of_link):
    print(f"{options.arch}, {hosts.description(options)}, batch {options.batch} a rank,", end=" ")
    print(f"{options.rounds} rounds of {steps} steps; milliseconds a step of the slowest rank")
    print(f"{'variant':<18} {'backend':<13} {'median':>9} {'min':>9} {'max':>9} {'to alone':>9} {'exposed ms':>11}", end="")
    print(f" {'MiB sent':>9} {'of link':>8}")
    for variant, figures in rounds.items():
        exposed = ddp_step.worst_extra(extras, variant, "exposed_ms")
        print(f"{variant:<18} {options.backends.get(variant, ''):<13} {spread(figures, '9.2f')}", end="")
        print(f" {medians[variant] / medians['alone']:>9.3f}", end="")
        print(f" {'' if exposed is None else format(exposed, '.2f'):>11} {sent[variant]:>9.1f}", end="")
        print(f" {'n/a' if of_link[variant] is None else format(of_link[variant], '.3f'):>8}")


def run(options, command):
    hosts.enter(options)
    versions = find_versions(options)
    variants = choose_variants(options, versions)
    steps = options.steps or (20 if options.batch >= 16 else 50)
    raw, extras = ddp_step.run_rounds(options, variants, options.batch, steps)
    rounds, medians, sent, of_link, results = summarize(options, raw, extras)
    print_table(options, steps, rounds, medians, extras, sent, of_link)
    append_record(
        options,
        "hosts",
        command,
        versions=versions,
        **hosts.recorded(options),
        **chosen(options, ["arch", "batch", "warmup"]),
        steps=steps,
        unit="milliseconds a step; raw: variant -> round -> rank",
        raw=raw,
        extras=extras,
        medians=medians,
        sent_mib_a_step=sent,
        of_link=of_link,
        ratios=results,
        backends=options.backends,
    )
    figures = {
        "vs_pytorch": results["vs_pytorch_ddp"],
        "vs_plain_mpi": results["vs_plain_mpi"],
        "ratio": results["ratio"],
        "exposed": results["exposed_ms"],
        "of_link": of_link["lockstep_mpirun"],
        "torchrun_vs_pytorch": results["torchrun_vs_pytorch_ddp"],
        "torchrun_ratio": results["torchrun_ratio"],
    }
    print_result(shown(figures))


if __name__ == "__main__":
    sys.exit(main("hosts", parse, run))

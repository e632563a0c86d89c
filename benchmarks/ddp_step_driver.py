# SPDX-License-Identifier: BSD-3-Clause
"""Runs the variants of the ddp_step benchmark in turns, prints a table and a result line, appends a record.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import re
import shutil
import socket
import statistics
import sys
import tempfile

from driver import FOLDER, Parser, append_record, main, output_of, positive, print_result, show_progress, versions_of
from jobs import Job, JobError

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
NOT_MEASURED = "n/a"


def parse(arguments):
    parser = Parser("ddp_step", __doc__, ("a start", 300))
    parser.add_argument("--ranks", type=positive, default=2, help="processes, one thread each (default 2)")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet18", help="model (default resnet18)")
    parser.add_argument("--batch", type=positive, help="images a rank and step (default: 32, then 4)")
    parser.add_argument("--rounds", type=positive, default=5, help="starts of each variant (default 5)")
    parser.add_argument("--steps", type=positive, help="timed steps a start (default: 20, or 50 below batch 16)")
    parser.add_argument("--warmup", type=positive, default=5, help="steps before the timed ones (default 5)")
    parser.add_argument(
        "--retain-alone",
        action="store_true",
        help="also run the step alone and plain MPI with the malloc settings that Lockstep's DDP makes",
    )
    parser.add_argument("--bucket-cap-mib", type=positive, help="Lockstep's bucket_cap_bytes, in MiB")
    parser.add_argument("--tune-after", type=positive, help="Lockstep's tune_buckets_after; at most --warmup")
    parser.add_argument("--accumulate", type=positive, default=1, help="backwards a step (default 1); the last one averages")
    parser.add_argument("--tuned-pytorch", action="store_true", help="also run PyTorch's DDP with its fastest options")
    return with_jobs(parser.parse(arguments), make_job)


def with_jobs(options, make):
    """Sets how a variant is started, and where the names of the backends are kept that Lockstep chose: by variant."""
    options.make_job = make
    options.backends = {}
    return options


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_environments(options):
    """The launch variables of torchrun, one set a rank, everything on the loop-back interface."""
    common = dict(
        os.environ,
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="lo",
        WORLD_SIZE=str(options.ranks),
        LOCAL_WORLD_SIZE=str(options.ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
    )
    return [dict(common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(options.ranks)]


def make_job(options, variant, batch, steps, output):
    arguments = ["--variant", variant, "--arch", options.arch, "--batch", str(batch)]
    arguments += ["--warmup", str(options.warmup), "--steps", str(steps), "--output", output]
    arguments += ["--accumulate", str(options.accumulate)]
    if variant == "lockstep":
        arguments += ["--bucket-cap-mib", str(options.bucket_cap_mib or 0), "--tune-after", str(options.tune_after or 0)]
    if variant.startswith("pytorch"):
        command = [options.python, os.path.join(FOLDER, "ddp_step.py"), *arguments]
        return Job([command] * options.ranks, rank_environments(options))
    if not options.mpi:
        return Job([[options.program, *arguments]] * options.ranks, rank_environments(options))
    # No ranks are bound to cores, as with Python's; loop-back and shared memory only.
    mpirun = ["mpirun", "-n", str(options.ranks), "--oversubscribe", "--bind-to", "none", "--mca", "btl", "self,vader"]
    environment = dict(
        os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"
    )
    return Job([[*mpirun, options.program, *arguments]], [environment])


def read_extras(path):
    """What a rank tells beside its times: a name and a number a line."""
    with open(path, encoding="ascii") as file:
        return {name: round(float(value), 3) for name, value in (line.split() for line in file)}


def run_once(options, variant, batch, steps):
    """Starts a variant once; returns the median milliseconds a step, and what else they tell, of each rank."""
    with tempfile.TemporaryDirectory() as output:
        text = options.make_job(options, variant, batch, steps, output).wait(options.deadline)
        options.backends.update({variant: name for name in re.findall(r"^backend (\w+)$", text, re.MULTILINE)})
        medians, extras = [], []
        for rank in range(options.ranks):
            with open(os.path.join(output, f"rank{rank}.txt"), encoding="ascii") as file:
                figures = [float(line) for line in file]
            if len(figures) != steps:
                raise JobError(f"rank {rank} left {len(figures)} figures instead of {steps}")
            medians.append(round(statistics.median(figures), 3))
            extras.append(read_extras(os.path.join(output, f"rank{rank}.extras")))
        return medians, extras


def run_rounds(options, variants, batch, steps):
    """Each round starts each variant once, in an order that turns, so that drift of the machine hits all alike. Jobs may
    read the round's number in `options.round`."""
    raw = {variant: [] for variant in variants}
    extras = {variant: [] for variant in variants}
    for number in range(options.rounds):
        options.round = number
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            show_progress(f"batch {batch}: round {number + 1} of {options.rounds}, {variant}")
            try:
                medians, more = run_once(options, variant, batch, steps)
                raw[variant].append(medians)
                extras[variant].append(more)
            except (JobError, OSError, ValueError) as error:
                show_progress("")
                raise JobError(f"variant {variant}, batch {batch}, round {number + 1}: {error}") from None
    show_progress("")
    return raw, extras


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


def print_table(options, batch, steps, rounds, medians, extras):
    print(f"{options.arch}, {options.ranks} ranks, batch {batch} a rank, {options.rounds} rounds of {steps} steps;", end=" ")
    print("milliseconds a step of the slowest rank")
    print(f"{'variant':<24} {'median':>9} {'min':>9} {'max':>9}   to own alone   peak MiB   exposed ms")
    for variant, figures in rounds.items():
        own = medians[variant] / medians[OWN_ALONE[variant]]
        print(f"{variant:<24} {medians[variant]:>9.2f} {min(figures):>9.2f} {max(figures):>9.2f} {own:>14.3f}", end="")
        peak, exposed = (worst_extra(extras, variant, name) for name in ("peak_mib", "exposed_ms"))
        print(f" {peak:>10.0f}" + (f" {exposed:>12.2f}" if exposed is not None else ""))


def find_versions(options):
    versions = versions_of(options.program)
    probe = "import torch, torch.distributed as d; assert d.is_gloo_available(); print(torch.__version__)"
    python_torch = options.python and output_of([options.python, "-c", probe])
    if python_torch:
        versions["python_torch"] = python_torch
    return versions


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
        print_table(options, batch, steps, rounds, medians, extras)
        if not options.no_record:
            append_record(
                "ddp_step.jsonl",
                "ddp_step",
                command,
                versions=versions,
                ranks=options.ranks,
                arch=options.arch,
                batch=batch,
                warmup=options.warmup,
                accumulate=options.accumulate,
                steps=steps,
                unit="milliseconds a step; raw: variant -> round -> rank",
                raw=raw,
                extras=extras,
                medians=medians,
                ratios=ratios,
                backends=options.backends,
            )
        print_result({name: NOT_MEASURED if value is None else f"{value:.2f}" for name, value in ratios.items()})


if __name__ == "__main__":
    sys.exit(main("ddp_step", parse, run))

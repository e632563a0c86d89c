# SPDX-License-Identifier: BSD-3-Clause
"""Runs the checkpoint benchmark: trainings that save, in turns with Python's, and files against a plain program.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import json
import os
import statistics
import sys
import tempfile

from ddp_step_driver import NOT_MEASURED, find_versions, rank_environments
from driver import FOLDER, Parser, UsageError, append_record, main, output_of, positive, print_result, show_progress
from jobs import Job, JobError

ARCHITECTURES = ["resnet18", "resnet34", "resnet50"]
OWN = ["none", "copied", "deferred"]
PYTHON = ["python_none", "torch_save", "async_save"]


def parse(arguments):
    parser = Parser("checkpoint", __doc__, ("a start", 600))
    parser.add_argument("--ranks", type=positive, default=2, help="processes, one thread each (default 2)")
    parser.add_argument("--arch", choices=ARCHITECTURES, help="model (default: resnet18, then resnet50)")
    parser.add_argument("--batch", type=positive, default=32, help="images a rank and step (default 32)")
    parser.add_argument("--rounds", type=positive, default=5, help="starts of each variant (default 5)")
    parser.add_argument("--steps", type=positive, default=40, help="timed steps a start (default 40)")
    parser.add_argument("--warmup", type=positive, default=20, help="steps before the timed ones (default 20)")
    parser.add_argument("--every", type=positive, default=10, help="steps from save to save (default 10)")
    parser.add_argument("--folder", help="where checkpoints are written (default: the folder for temporary files)")
    parser.add_argument("--no-python", action="store_true", help="leave Python's side out")
    options = parser.parse(arguments)
    if options.steps <= options.every:
        raise UsageError(f"--steps {options.steps} has no save with what follows it: more than --every {options.every} are needed")
    return options


def run_once(options, arch, variant):
    """Starts a variant once; returns the figures of each rank."""
    with tempfile.TemporaryDirectory() as output, tempfile.TemporaryDirectory(dir=options.folder) as folder:
        arguments = ["--variant", variant.removeprefix("python_"), "--arch", arch, "--batch", str(options.batch)]
        arguments += ["--warmup", str(options.warmup), "--steps", str(options.steps), "--every", str(options.every)]
        arguments += ["--folder", folder, "--output", output]
        if variant in PYTHON:
            command = [options.python, os.path.join(FOLDER, "checkpoint.py"), *arguments]
        else:
            command = [options.program, *arguments, "--rounds", str(options.rounds)]
        Job([command] * options.ranks, rank_environments(options)).wait(options.deadline)
        figures = []
        for rank in range(options.ranks):
            with open(os.path.join(output, f"rank{rank}.json"), encoding="ascii") as file:
                figures.append(json.load(file))
        return figures


def run_rounds(options, arch, variants):
    """Each round starts each variant once, in an order that turns, so that drift of the machine hits all alike."""
    raw = {variant: [] for variant in variants}
    for number in range(options.rounds):
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            show_progress(f"{arch}: round {number + 1} of {options.rounds}, {variant}")
            try:
                raw[variant].append(run_once(options, arch, variant))
            except (JobError, OSError, ValueError) as error:
                show_progress("")
                raise JobError(f"variant {variant}, {arch}, round {number + 1}: {error}") from None
    show_progress(f"{arch}: files")
    files = run_once(options, arch, "files")
    show_progress("")
    return raw, files


def over_rounds(raw, variant, figure):
    """The median over the rounds of the slowest rank's figure; nothing where there is none."""
    rounds = [max(figure(rank) for rank in ranks) for ranks in raw.get(variant, [])]
    return statistics.median(rounds) if rounds else None


def stall(raw, variant):
    return over_rounds(raw, variant, lambda rank: statistics.median(rank["stalls_ms"]))


def step(raw, variant):
    """What a step takes on average, saves and all."""
    return over_rounds(raw, variant, lambda rank: rank["total_ms"] / len(rank["steps_ms"]))


def median_step(raw, variant):
    return over_rounds(raw, variant, lambda rank: statistics.median(rank["steps_ms"]))


def slowest(files, name):
    """The median over the rounds of the slowest rank."""
    return statistics.median(max(times) for times in zip(*(rank[name] for rank in files)))


def quotient(above, below):
    return None if above is None or below is None else above / below


def summarize(raw, files):
    one_step = median_step(raw, "none")
    return {
        "stall_ratio": quotient(stall(raw, "copied"), one_step),
        "stall_ratio_deferred": quotient(stall(raw, "deferred"), one_step),
        "stall_vs_async_save": quotient(stall(raw, "copied"), stall(raw, "async_save")),
        "stall_deferred_vs_async_save": quotient(stall(raw, "deferred"), stall(raw, "async_save")),
        "stall_vs_torch_save": quotient(stall(raw, "copied"), stall(raw, "torch_save")),
        "slowdown_every10": step(raw, "copied") / step(raw, "none") - 1,
        "slowdown_every10_deferred": step(raw, "deferred") / step(raw, "none") - 1,
        "write_of_limit": slowest(files, "plain_write_ms") / slowest(files, "save_ms"),
        "write_of_limit_unverified": slowest(files, "plain_write_ms") / slowest(files, "save_unverified_ms"),
        "read_of_limit": slowest(files, "plain_read_ms") / slowest(files, "load_ms"),
    }


def print_table(options, arch, raw, files):
    print(f"{arch}, {options.ranks} ranks, batch {options.batch} a rank, a save every {options.every} steps,", end=" ")
    print(f"{options.rounds} rounds of {options.steps} steps; milliseconds of the slowest rank")
    print(f"{'variant':<12} {'step':>9} {'mean step':>10} {'stall a save':>13} {'min':>9} {'max':>9}")
    for variant, rounds in raw.items():
        print(f"{variant:<12} {median_step(raw, variant):>9.2f} {step(raw, variant):>10.2f}", end="")
        stalls = [time for ranks in rounds for rank in ranks for time in rank["stalls_ms"]]
        print(f" {stall(raw, variant):>13.2f} {min(stalls):>9.2f} {max(stalls):>9.2f}" if stalls else "")
    mib = sum(rank["bytes"][-1] for rank in files) / 2**20
    print(f"all files, {mib:.0f} MiB: ", end="")
    names = {"save_ms": "save", "save_unverified_ms": "save without reading back", "plain_write_ms": "plain write"}
    names |= {"load_ms": "load", "plain_read_ms": "plain read"}
    print(", ".join(f"{text} {slowest(files, name):.1f} ms" for name, text in names.items()))


def run(options, command):
    versions = find_versions(options)
    variants = [*OWN]
    if options.no_python or "python_torch" not in versions:
        print("benchmark: Python's side is left out", file=sys.stderr)
    else:
        variants += PYTHON
    log_program = os.path.join(os.path.dirname(options.program), "log_call")
    log_call = json.loads(output_of([log_program]) or "{}") if os.path.exists(log_program) else {}
    for arch in [options.arch] if options.arch else ["resnet18", "resnet50"]:
        raw, files = run_rounds(options, arch, variants)
        ratios = summarize(raw, files)
        print_table(options, arch, raw, files)
        if not options.no_record:
            append_record(
                "checkpoint.jsonl",
                "checkpoint",
                command,
                versions=versions,
                ranks=options.ranks,
                arch=arch,
                batch=options.batch,
                warmup=options.warmup,
                steps=options.steps,
                every=options.every,
                filesystem=output_of(["stat", "-f", "-c", "%T", options.folder or tempfile.gettempdir()]),
                unit="raw: variant -> round -> rank",
                raw=raw,
                files=files,
                log_call=log_call,
                ratios={name: None if value is None else round(value, 4) for name, value in ratios.items()},
            )
        shown = {name: NOT_MEASURED if value is None else f"{value:.3f}" for name, value in ratios.items()}
        print_result({**shown, **log_call})


if __name__ == "__main__":
    sys.exit(main("checkpoint", parse, run))

# SPDX-License-Identifier: BSD-3-Clause
"""Runs the checkpoint benchmark: trainings that save, in turns with Python's, and files against a plain program.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import json
import os
import statistics
import sys
import tempfile

from driver import Parser, UsageError, append_record, main, output_of, print_result, rounded, show_progress, shown
from sides import chosen, figures_of_ranks, find_versions, has_python, in_turns, program_of, rank_processes, words

ARCHITECTURES = ["resnet18", "resnet34", "resnet50"]
SAVING = ["copied", "deferred"]
OWN = ["none", *SAVING]
PYTHON = ["python_none", "torch_save", "async_save"]


def parse(arguments):
    parser = Parser("checkpoint", __doc__, ("a start", 600))
    parser.number("--ranks", 2, "processes, one thread each")
    parser.add_argument("--arch", choices=ARCHITECTURES, help="model (default: resnet18, then resnet50)")
    parser.number("--batch", 32, "images a rank and step")
    parser.number("--rounds", 5, "starts of each variant")
    parser.number("--steps", 40, "timed steps a start")
    parser.number("--warmup", 20, "steps before the timed ones")
    parser.number("--every", 10, "steps from save to save")
    parser.add_argument("--folder", help="where checkpoints are written (default: the folder for temporary files)")
    parser.add_argument("--no-python", action="store_true", help="leave Python's side out")
    options = parser.parse(arguments)
    if options.steps <= options.every:
        raise UsageError(f"--steps {options.steps} has no save with what follows it: more than --every {options.every} are needed")
    return options


def counts_of(options, variant):
    """How many steps there are. One start of ours that saves has both kinds of steps, since starts differ by more than what is
    measured: those up to --every that follow a save, the first of which has it, and as many later ones."""
    if variant not in SAVING:
        return words(options, ["warmup", "steps", "every"])
    period = 2 * options.every
    warmup = -(-(options.warmup + 1) // period) * period - 1
    steps = -(-options.steps // period) * period
    return ["--warmup", str(warmup), "--steps", str(steps), "--every", str(period)]


def run_once(options, arch, variant):
    """Starts a variant once; returns the figures of each rank."""
    with tempfile.TemporaryDirectory() as output, tempfile.TemporaryDirectory(dir=options.folder) as folder:
        arguments = ["--variant", variant.removeprefix("python_"), "--arch", arch, *words(options, ["batch"])]
        arguments += [*counts_of(options, variant), "--folder", folder, "--output", output]
        if variant in PYTHON:
            command = [*program_of(options, "checkpoint.py"), *arguments]
        else:
            command = [options.program, *arguments, *words(options, ["rounds"])]
        rank_processes(command, options.ranks).wait(options.deadline)
        return figures_of_ranks(output, options.ranks)


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


def slowdown(raw, variant, every):
    """What the steps up to `every` after a save take longer than those that come then, as a part of the latter."""

    def of_rank(rank):
        sums = [0, 0]
        for number, milliseconds in enumerate(rank["steps_ms"]):
            sums[number // every % 2] += milliseconds
        return sums[0] / sums[1] - 1

    return over_rounds(raw, variant, of_rank)


def slowest(files, name):
    """The median over the rounds of the slowest rank."""
    return statistics.median(max(times) for times in zip(*(rank[name] for rank in files)))


def quotient(above, below):
    return None if above is None or below is None else above / below


def summarize(raw, files, every):
    one_step = median_step(raw, "none")
    return {
        "stall_ratio": quotient(stall(raw, "copied"), one_step),
        "stall_ratio_deferred": quotient(stall(raw, "deferred"), one_step),
        "stall_vs_async_save": quotient(stall(raw, "copied"), stall(raw, "async_save")),
        "stall_deferred_vs_async_save": quotient(stall(raw, "deferred"), stall(raw, "async_save")),
        "stall_vs_torch_save": quotient(stall(raw, "copied"), stall(raw, "torch_save")),
        "slowdown_every10": slowdown(raw, "copied", every),
        "slowdown_every10_deferred": slowdown(raw, "deferred", every),
        "write_of_limit": slowest(files, "plain_write_ms") / slowest(files, "save_ms"),
        "write_of_limit_unverified": slowest(files, "plain_write_ms") / slowest(files, "save_unverified_ms"),
        "read_of_limit": slowest(files, "plain_read_ms") / slowest(files, "load_ms"),
    }


def print_table(options, arch, raw, files):
    print(f"{arch}, {options.ranks} ranks, batch {options.batch} a rank, {options.rounds} rounds of {options.steps} steps or more;", end=" ")
    print(f"a save every {2 * options.every} steps of ours, and {options.every} of Python's; milliseconds of the slowest rank")
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
    variants = OWN + (PYTHON if has_python(options, versions) else [])
    log_program = os.path.join(os.path.dirname(options.program), "log_call")
    log_call = json.loads(output_of([log_program]) or "{}") if os.path.exists(log_program) else {}
    for arch in [options.arch] if options.arch else ["resnet18", "resnet50"]:
        raw = in_turns(options, variants, lambda variant: run_once(options, arch, variant), arch)
        show_progress(f"{arch}: files")
        files = run_once(options, arch, "files")
        show_progress("")
        ratios = summarize(raw, files, options.every)
        print_table(options, arch, raw, files)
        append_record(
            options,
            "checkpoint",
            command,
            versions=versions,
            ranks=options.ranks,
            arch=arch,
            **chosen(options, ["batch", "warmup", "steps", "every"]),
            filesystem=output_of(["stat", "-f", "-c", "%T", options.folder or tempfile.gettempdir()]),
            saves="ours every second time",
            unit="raw: variant -> round -> rank",
            raw=raw,
            files=files,
            log_call=log_call,
            ratios=rounded(ratios),
        )
        print_result({**shown(ratios, ".3f"), **log_call})


if __name__ == "__main__":
    sys.exit(main("checkpoint", parse, run))

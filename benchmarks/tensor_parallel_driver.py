# SPDX-License-Identifier: BSD-3-Clause
"""Runs the tensor-parallel benchmark: layers and a loss that two ranks share, against the whole of them on one core, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import statistics
import sys
import tempfile
from operator import itemgetter

from driver import Parser, UsageError, append_record, main, print_result, rounded, shown
from jobs import JobError
from sides import (
    chosen,
    figures_of_ranks,
    find_versions,
    has_python,
    in_turns,
    print_table,
    program_of,
    rank_processes,
    ratio,
    words,
)

# Variant -> task, whether it is shared, whether it is PyTorch's.
VARIANTS = {
    "mlp_one_core": ("mlp", False, False),
    "mlp": ("mlp", True, False),
    "mlp_pytorch": ("mlp", True, True),
    "cross_entropy_one_core": ("cross_entropy", False, False),
    "cross_entropy": ("cross_entropy", True, False),
}
TOLERANCE = 1e-4  # of a loss, relative
SIZES = ["width", "hidden", "batch", "classes", "warmup", "steps"]


def parse(arguments):
    parser = Parser("tensor_parallel", __doc__, ("a start", 300))
    parser.number("--ranks", 2, "ranks that share, one thread each")
    parser.number("--width", 1024, "columns of input and output")
    parser.number("--hidden", 4096, "columns between the layers")
    parser.number("--batch", 256, "rows of a step")
    parser.number("--classes", 50000, "classes of the cross entropy")
    parser.number("--rounds", 7, "starts of each variant")
    parser.number("--steps", 15, "timed steps a start")
    parser.number("--warmup", 3, "steps before the timed ones")
    parser.add_argument("--no-python", action="store_true", help="leave PyTorch's side out")
    options = parser.parse(arguments)
    for name in ("hidden", "classes"):
        if getattr(options, name) % options.ranks:
            raise UsageError(f"--{name} {getattr(options, name)} is no multiple of --ranks {options.ranks}")
    return options


def run_once(options, variant):
    """Starts a variant once. Of the slowest rank: milliseconds of a step and of an all-reduce; and the first loss."""
    task, is_shared, is_python = VARIANTS[variant]
    count = options.ranks if is_shared else 1
    program = program_of(options, "tensor_parallel.py" if is_python else None)
    with tempfile.TemporaryDirectory() as output:
        command = [*program, "--task", task, "--output", output, *words(options, SIZES)]
        rank_processes(command, count).wait(options.deadline)
        ranks = figures_of_ranks(output, count)
    return {
        "step": max(statistics.median(rank["steps_ms"]) for rank in ranks),
        "all_reduce": max((statistics.median(rank["all_reduces_ms"]) for rank in ranks if rank["all_reduces_ms"]), default=0),
        "step_kib": max(rank.get("step_kib", 0) for rank in ranks),
        "loss": ranks[0]["loss"],
    }


def check_losses(raw):
    """All variants of a task begin with the same weights and see the same numbers."""
    for variant, rounds in raw.items():
        expected = raw[VARIANTS[variant][0] + "_one_core"][0]["loss"]
        for figures in rounds:
            if abs(figures["loss"] - expected) > TOLERANCE * abs(expected):
                raise JobError(f"variant {variant} has a loss of {figures['loss']} instead of {expected}")


def memory_ratio(raw, shared, whole):
    """What the steps of a rank that shares added to its memory, as a part of what those of the whole added."""
    return statistics.median(a["step_kib"] / max(1, b["step_kib"]) for a, b in zip(raw[shared], raw[whole]))


def print_figures(options, raw):
    print(f"MLP {options.width}-{options.hidden}-{options.width}, batch {options.batch}; cross entropy of {options.classes}", end=" ")
    print(f"classes; {options.ranks} ranks, {options.rounds} rounds; milliseconds a step of the slowest rank")
    steps = {variant: [figures["step"] for figures in rounds] for variant, rounds in raw.items()}

    def more(variant):
        reduces = statistics.median(figures["all_reduce"] for figures in raw[variant])
        memory = statistics.median(figures["step_kib"] for figures in raw[variant]) / 1024
        return f" {reduces:>11.4f} {memory:>7.1f}"

    print_table(steps, "variant", 24, "9.3f", "step", f" {'all_reduce':>11} {'MiB':>7}", more)


def run(options, command):
    versions = find_versions(options)
    with_python = has_python(options, versions, "PyTorch")
    variants = [name for name, (_, _, is_python) in VARIANTS.items() if with_python or not is_python]
    raw = in_turns(options, variants, lambda variant: run_once(options, variant))
    check_losses(raw)
    step = itemgetter("step")
    ratios = {
        "vs_one_core": ratio(raw, "mlp_one_core", "mlp", step),
        "all_reduce_share": statistics.median(figures["all_reduce"] / figures["step"] for figures in raw["mlp"]),
        "cross_entropy": ratio(raw, "cross_entropy_one_core", "cross_entropy", step),
        "vs_pytorch": ratio(raw, "mlp_pytorch", "mlp", step),
        "cross_entropy_memory": memory_ratio(raw, "cross_entropy", "cross_entropy_one_core"),
    }
    print_figures(options, raw)
    append_record(
        options,
        "tensor_parallel",
        command,
        versions=versions,
        **chosen(options, ["ranks", *SIZES]),
        unit="of the slowest rank, ms: median step, median all-reduce of the output; KiB that steps added; raw: variant -> round",
        raw=raw,
        ratios=rounded(ratios),
    )
    print_result({**shown(ratios), "all_reduce_share": f"{ratios['all_reduce_share']:.4f}"})


if __name__ == "__main__":
    sys.exit(main("tensor_parallel", parse, run))

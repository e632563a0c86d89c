# SPDX-License-Identifier: BSD-3-Clause
"""Runs the tensor-parallel benchmark: layers and a loss that two ranks share, against the whole of them on one core, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import json
import os
import statistics
import sys
import tempfile

from ddp_step_driver import NOT_MEASURED, find_versions, rank_environments
from driver import FOLDER, Parser, UsageError, append_record, main, positive, print_result, show_progress
from jobs import Job, JobError

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
    parser.add_argument("--ranks", type=positive, default=2, help="ranks that share, one thread each (default 2)")
    parser.add_argument("--width", type=positive, default=1024, help="columns of input and output (default 1024)")
    parser.add_argument("--hidden", type=positive, default=4096, help="columns between the layers (default 4096)")
    parser.add_argument("--batch", type=positive, default=256, help="rows of a step (default 256)")
    parser.add_argument("--classes", type=positive, default=50000, help="classes of the cross entropy (default 50000)")
    parser.add_argument("--rounds", type=positive, default=7, help="starts of each variant (default 7)")
    parser.add_argument("--steps", type=positive, default=15, help="timed steps a start (default 15)")
    parser.add_argument("--warmup", type=positive, default=3, help="steps before the timed ones (default 3)")
    parser.add_argument("--no-python", action="store_true", help="leave PyTorch's side out")
    options = parser.parse(arguments)
    for name in ("hidden", "classes"):
        if getattr(options, name) % options.ranks:
            raise UsageError(f"--{name} {getattr(options, name)} is no multiple of --ranks {options.ranks}")
    return options


def run_once(options, variant):
    """Starts a variant once. Of the slowest rank: milliseconds of a step and of an all-reduce; and the first loss."""
    task, is_shared, is_python = VARIANTS[variant]
    environments = rank_environments(options)
    if not is_shared:
        alone = {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        environments = [dict(environments[0], **alone)]
    program = [options.python, os.path.join(FOLDER, "tensor_parallel.py")] if is_python else [options.program]
    with tempfile.TemporaryDirectory() as output:
        command = [*program, "--task", task, "--output", output]
        command += [word for name in SIZES for word in (f"--{name}", str(getattr(options, name)))]
        Job([command] * len(environments), environments).wait(options.deadline)
        ranks = []
        for rank in range(len(environments)):
            with open(os.path.join(output, f"rank{rank}.json"), encoding="ascii") as file:
                ranks.append(json.load(file))
    return {
        "step": max(statistics.median(rank["steps_ms"]) for rank in ranks),
        "all_reduce": max((statistics.median(rank["all_reduces_ms"]) for rank in ranks if rank["all_reduces_ms"]), default=0),
        "step_kib": max(rank.get("step_kib", 0) for rank in ranks),
        "loss": ranks[0]["loss"],
    }


def run_rounds(options, variants):
    """Each round starts each variant once, in an order that turns, so that drift of the machine hits all alike."""
    raw = {variant: [] for variant in variants}
    for number in range(options.rounds):
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            show_progress(f"round {number + 1} of {options.rounds}, {variant}")
            try:
                raw[variant].append(run_once(options, variant))
            except (JobError, OSError, ValueError) as error:
                show_progress("")
                raise JobError(f"variant {variant}, round {number + 1}: {error}") from None
    show_progress("")
    return raw


def check_losses(raw):
    """All variants of a task begin with the same weights and see the same numbers."""
    for variant, rounds in raw.items():
        expected = raw[VARIANTS[variant][0] + "_one_core"][0]["loss"]
        for figures in rounds:
            if abs(figures["loss"] - expected) > TOLERANCE * abs(expected):
                raise JobError(f"variant {variant} has a loss of {figures['loss']} instead of {expected}")


def ratio(raw, slower, faster):
    """The median over the rounds of the ratio of two steps in a round."""
    if slower not in raw:
        return None
    return statistics.median(a["step"] / b["step"] for a, b in zip(raw[slower], raw[faster]))


def memory_ratio(raw, shared, whole):
    """What the steps of a rank that shares added to its memory, as a part of what those of the whole added."""
    return statistics.median(a["step_kib"] / max(1, b["step_kib"]) for a, b in zip(raw[shared], raw[whole]))


def print_table(options, raw):
    print(f"MLP {options.width}-{options.hidden}-{options.width}, batch {options.batch}; cross entropy of {options.classes}", end=" ")
    print(f"classes; {options.ranks} ranks, {options.rounds} rounds; milliseconds a step of the slowest rank")
    print(f"{'variant':<24} {'step':>9} {'min':>9} {'max':>9} {'all_reduce':>11} {'MiB':>7}")
    for variant, rounds in raw.items():
        steps = [figures["step"] for figures in rounds]
        reduces = statistics.median(figures["all_reduce"] for figures in rounds)
        memory = statistics.median(figures["step_kib"] for figures in rounds) / 1024
        print(f"{variant:<24} {statistics.median(steps):>9.3f} {min(steps):>9.3f} {max(steps):>9.3f} {reduces:>11.4f} {memory:>7.1f}")


def run(options, command):
    versions = find_versions(options)
    has_python = not options.no_python and "python_torch" in versions
    if not has_python:
        print("benchmark: PyTorch's side is left out", file=sys.stderr)
    raw = run_rounds(options, [name for name, (_, _, is_python) in VARIANTS.items() if has_python or not is_python])
    check_losses(raw)
    ratios = {
        "vs_one_core": ratio(raw, "mlp_one_core", "mlp"),
        "all_reduce_share": statistics.median(figures["all_reduce"] / figures["step"] for figures in raw["mlp"]),
        "cross_entropy": ratio(raw, "cross_entropy_one_core", "cross_entropy"),
        "vs_pytorch": ratio(raw, "mlp_pytorch", "mlp"),
        "cross_entropy_memory": memory_ratio(raw, "cross_entropy", "cross_entropy_one_core"),
    }
    print_table(options, raw)
    if not options.no_record:
        append_record(
            "tensor_parallel.jsonl",
            "tensor_parallel",
            command,
            versions=versions,
            **{name: getattr(options, name) for name in ["ranks", *SIZES]},
            unit="of the slowest rank, ms: median step, median all-reduce of the output; KiB that steps added; raw: variant -> round",
            raw=raw,
            ratios={name: None if value is None else round(value, 4) for name, value in ratios.items()},
        )
    digits = {"all_reduce_share": 4}
    print_result(
        {name: NOT_MEASURED if value is None else f"{value:.{digits.get(name, 2)}f}" for name, value in ratios.items()}
    )


if __name__ == "__main__":
    sys.exit(main("tensor_parallel", parse, run))

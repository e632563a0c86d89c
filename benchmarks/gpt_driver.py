# SPDX-License-Identifier: BSD-3-Clause
"""Trains the GPT of examples/gpt with Lockstep and the same model in Python with PyTorch's DDP, in turns, on the same batches.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import statistics
import sys
import tempfile

from ddp_step_driver import NOT_MEASURED, find_versions, rank_environments
from driver import FOLDER, Parser, UsageError, append_record, main, positive, print_result, show_progress
from jobs import Job, JobError

PYTHON = ["pytorch_ddp", "pytorch_ddp_tuned"]
COMPARED_STEPS = 50
TOLERANCE = 1e-4  # of a loss
# Steps at the beginning whose time does not count: memory is faulted in, and buckets are laid out.
UNTIMED_STEPS = 10


def parse(arguments):
    parser = Parser("gpt", __doc__, ("a start", 300))
    parser.add_argument("--ranks", type=positive, default=2, help="processes, one thread each (default 2)")
    parser.add_argument("--layers", type=positive, default=4, help="blocks of the model (default 4)")
    parser.add_argument("--heads", type=positive, default=4, help="heads of attention (default 4)")
    parser.add_argument("--width", type=positive, default=128, help="columns of the model (default 128)")
    parser.add_argument("--block", type=positive, default=64, help="tokens of a window (default 64)")
    parser.add_argument("--batch", type=positive, default=12, help="windows a rank and step (default 12)")
    parser.add_argument("--rounds", type=positive, default=5, help="starts of each variant (default 5)")
    parser.add_argument("--steps", type=positive, default=60, help="steps a start (default 60)")
    parser.add_argument("--no-tuned-pytorch", action="store_true", help="leave out PyTorch's DDP with its fastest options")
    options = parser.parse(arguments)
    if options.width % options.heads:
        raise UsageError(f"--width {options.width} is no multiple of --heads {options.heads}")
    if options.steps <= UNTIMED_STEPS:
        raise UsageError(f"--steps {options.steps}: more than the {UNTIMED_STEPS} that are not timed are needed")
    return options


def make_inputs(options, folder):
    names = ["ranks", "layers", "heads", "width", "block", "batch", "steps"]
    shape = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    command = [options.python, os.path.join(FOLDER, "gpt.py"), "make", "--folder", folder, *shape]
    Job([command], [dict(os.environ)]).wait(options.deadline)


def run_once(options, variant, inputs):
    """Starts a variant once; returns [losses, milliseconds] of each rank, step by step."""
    with tempfile.TemporaryDirectory() as output:
        arguments = ["--weights", os.path.join(inputs, "weights.safetensors"), "--heads", str(options.heads)]
        arguments += ["--batches", os.path.join(inputs, "batches.safetensors"), "--warmup", str(options.steps // 5)]
        arguments += ["--output", output]
        command = [options.program, *arguments]
        if variant in PYTHON:
            command = [options.python, os.path.join(FOLDER, "gpt.py"), "train", "--variant", variant, *arguments]
        Job([command] * options.ranks, rank_environments(options)).wait(options.deadline)
        ranks = []
        for rank in range(options.ranks):
            with open(os.path.join(output, f"rank{rank}.txt"), encoding="ascii") as file:
                lines = [[float(word) for word in line.split()] for line in file]
            if len(lines) != options.steps:
                raise JobError(f"rank {rank} left {len(lines)} figures instead of {options.steps}")
            ranks.append([list(column) for column in zip(*lines)])
        return ranks


def run_rounds(options, variants, inputs):
    """Each round starts each variant once, in an order that turns, so that drift of the machine hits all alike."""
    raw = {variant: [] for variant in variants}
    for number in range(options.rounds):
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            show_progress(f"round {number + 1} of {options.rounds}, {variant}")
            try:
                raw[variant].append(run_once(options, variant, inputs))
            except (JobError, OSError, ValueError) as error:
                show_progress("")
                raise JobError(f"variant {variant}, round {number + 1}: {error}") from None
    show_progress("")
    return raw


def tokens_per_second(options, ranks):
    """Of all ranks together, by the median step of the slowest."""
    slowest = max(statistics.median(milliseconds[UNTIMED_STEPS:]) for _, milliseconds in ranks)
    return 1000 * options.ranks * options.batch * options.block / slowest


def loss_difference(raw):
    """The largest difference of any rank's loss in any of the compared steps, of any variant from the first one."""
    reference = next(iter(raw.values()))[0]
    return max(
        abs(loss - other)
        for rounds in raw.values()
        for ranks in rounds
        for (losses, _), (others, _) in zip(ranks, reference)
        for loss, other in zip(losses[:COMPARED_STEPS], others[:COMPARED_STEPS])
    )


def print_table(options, speeds, raw):
    print(f"{options.layers} layers of width {options.width}, {options.ranks} ranks, {options.batch} windows of", end=" ")
    print(f"{options.block} tokens a rank, {options.rounds} rounds of {options.steps} steps; tokens a second of all ranks")
    print(f"{'variant':<20} {'median':>9} {'min':>9} {'max':>9}   last loss of rank 0")
    for variant, figures in speeds.items():
        print(f"{variant:<20} {statistics.median(figures):>9.0f} {min(figures):>9.0f} {max(figures):>9.0f}", end="")
        print(f"   {raw[variant][0][0][0][-1]:.6f}")


def run(options, command):
    versions = find_versions(options)
    if "python_torch" not in versions:
        raise JobError("no Python here can import torch, which makes the weights and is what Lockstep is compared with")
    variants = ["lockstep", "pytorch_ddp"] + ([] if options.no_tuned_pytorch else ["pytorch_ddp_tuned"])
    with tempfile.TemporaryDirectory() as inputs:
        make_inputs(options, inputs)
        raw = run_rounds(options, variants, inputs)
    speeds = {variant: [tokens_per_second(options, ranks) for ranks in rounds] for variant, rounds in raw.items()}
    medians = {variant: statistics.median(figures) for variant, figures in speeds.items()}
    difference = loss_difference(raw)
    print_table(options, speeds, raw)
    print(f"largest difference of a loss in the first {min(COMPARED_STEPS, options.steps)} steps: {difference:.2g}")
    ratios = {f"speedup{variant.removeprefix('pytorch_ddp')}": medians["lockstep"] / medians[variant] for variant in variants[1:]}
    if not options.no_record:
        append_record(
            "gpt.jsonl",
            "gpt",
            command,
            versions=versions,
            **{name: getattr(options, name) for name in ("ranks", "layers", "heads", "width", "block", "batch", "steps")},
            unit="tokens a second of all ranks; variant -> round",
            raw={variant: [round(figure, 1) for figure in figures] for variant, figures in speeds.items()},
            medians={variant: round(median, 1) for variant, median in medians.items()},
            ratios={name: round(value, 3) for name, value in ratios.items()},
            loss_difference=difference,
        )
    shown = {name: f"{ratios[name]:.2f}" if name in ratios else NOT_MEASURED for name in ("speedup", "speedup_tuned")}
    print_result({"speedup": shown["speedup"], "same_loss": int(difference <= TOLERANCE), "speedup_tuned": shown["speedup_tuned"]})


if __name__ == "__main__":
    sys.exit(main("gpt", parse, run))

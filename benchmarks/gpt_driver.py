# SPDX-License-Identifier: BSD-3-Clause
"""Trains the GPT of examples/gpt with Lockstep and the same model in Python with PyTorch's DDP, in turns, on the same batches.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import statistics
import sys
import tempfile

from driver import Parser, UsageError, append_record, main, print_result, rounded, shown
from jobs import JobError
from sides import (
    chosen,
    find_versions,
    in_turns,
    lines_of_rank,
    one_process,
    print_table,
    program_of,
    rank_processes,
    words,
)

PYTHON = ["pytorch_ddp", "pytorch_ddp_tuned"]
SHAPE = ["ranks", "layers", "heads", "width", "block", "batch", "steps"]
COMPARED_STEPS = 50
TOLERANCE = 1e-4  # of a loss
# Steps at the beginning whose time does not count: memory is faulted in, and buckets are laid out.
UNTIMED_STEPS = 10


def parse(arguments):
    parser = Parser("gpt", __doc__, ("a start", 300))
    parser.number("--ranks", 2, "processes, one thread each")
    parser.number("--layers", 4, "blocks of the model")
    parser.number("--heads", 4, "heads of attention")
    parser.number("--width", 128, "columns of the model")
    parser.number("--block", 64, "tokens of a window")
    parser.number("--batch", 12, "windows a rank and step")
    parser.number("--rounds", 5, "starts of each variant")
    parser.number("--steps", 60, "steps a start")
    parser.add_argument("--no-tuned-pytorch", action="store_true", help="leave out PyTorch's DDP with its fastest options")
    options = parser.parse(arguments)
    if options.width % options.heads:
        raise UsageError(f"--width {options.width} is no multiple of --heads {options.heads}")
    if options.steps <= UNTIMED_STEPS:
        raise UsageError(f"--steps {options.steps}: more than the {UNTIMED_STEPS} that are not timed are needed")
    return options


def make_inputs(options, folder):
    command = [*program_of(options, "gpt.py"), "make", "--folder", folder, *words(options, SHAPE)]
    one_process(command).wait(options.deadline)


def run_once(options, variant, inputs):
    """Starts a variant once; returns [losses, milliseconds] of each rank, step by step."""
    with tempfile.TemporaryDirectory() as output:
        arguments = ["--weights", os.path.join(inputs, "weights.safetensors"), "--heads", str(options.heads)]
        arguments += ["--batches", os.path.join(inputs, "batches.safetensors"), "--warmup", str(options.steps // 5)]
        arguments += ["--output", output]
        program = program_of(options)
        if variant in PYTHON:
            program = [*program_of(options, "gpt.py"), "train", "--variant", variant]
        rank_processes([*program, *arguments], options.ranks).wait(options.deadline)
        paths = [os.path.join(output, f"rank{rank}.txt") for rank in range(options.ranks)]
        return [[list(column) for column in zip(*lines_of_rank(path, options.steps))] for path in paths]


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


def print_speeds(options, speeds, raw):
    print(f"{options.layers} layers of width {options.width}, {options.ranks} ranks, {options.batch} windows of", end=" ")
    print(f"{options.block} tokens a rank, {options.rounds} rounds of {options.steps} steps; tokens a second of all ranks")
    losses = {variant: f"   {rounds[0][0][0][-1]:.6f}" for variant, rounds in raw.items()}
    print_table(speeds, "variant", 20, "9.0f", "median", "   last loss of rank 0", losses.get)


def run(options, command):
    versions = find_versions(options)
    if "python_torch" not in versions:
        raise JobError("no Python here can import torch, which makes the weights and is what Lockstep is compared with")
    variants = ["lockstep", "pytorch_ddp"] + ([] if options.no_tuned_pytorch else ["pytorch_ddp_tuned"])
    with tempfile.TemporaryDirectory() as inputs:
        make_inputs(options, inputs)
        raw = in_turns(options, variants, lambda variant: run_once(options, variant, inputs))
    speeds = {variant: [tokens_per_second(options, ranks) for ranks in rounds] for variant, rounds in raw.items()}
    medians = {variant: statistics.median(figures) for variant, figures in speeds.items()}
    difference = loss_difference(raw)
    print_speeds(options, speeds, raw)
    print(f"largest difference of a loss in the first {min(COMPARED_STEPS, options.steps)} steps: {difference:.2g}")
    ratios = {f"speedup{variant.removeprefix('pytorch_ddp')}": medians["lockstep"] / medians[variant] for variant in variants[1:]}
    append_record(
        options,
        "gpt",
        command,
        versions=versions,
        **chosen(options, SHAPE),
        unit="tokens a second of all ranks; variant -> round",
        raw={variant: [round(figure, 1) for figure in figures] for variant, figures in speeds.items()},
        medians=rounded(medians, 1),
        ratios=rounded(ratios, 3),
        loss_difference=difference,
    )
    result = shown({name: ratios.get(name) for name in ("speedup", "speedup_tuned")})
    print_result({"speedup": result.pop("speedup"), "same_loss": int(difference <= TOLERANCE), **result})


if __name__ == "__main__":
    sys.exit(main("gpt", parse, run))

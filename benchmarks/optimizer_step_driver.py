# SPDX-License-Identifier: BSD-3-Clause
"""Runs the optimizer benchmark: a step of Lockstep's optimizers, of LibTorch's, and of Python's, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import json
import math
import os
import statistics
import sys
import tempfile

from ddp_step_driver import NOT_MEASURED, find_versions, rank_environments
from driver import FOLDER, Parser, append_record, main, positive, print_result, show_progress
from jobs import Job, JobError

OPTIMIZERS = ["adamw", "sgd"]
OWN = ["lockstep", "libtorch"]
PYTHON = ["python", "foreach", "fused"]


def resnet18():
    """torchvision's, with its 1000 classes: 62 tensors."""
    shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 2), (128, 2), (256, 2), (512, 2)):
        for block in range(blocks):
            shapes += [(width, channels, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if block == 0 and channels != width:
                shapes += [(width, channels, 1, 1), (width,), (width,)]
            channels = width
    return [*shapes, (1000, 512), (1000,)]


def gpt2():
    """The small one: 148 tensors."""
    width = 768
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(50257, width), (1024, width), *block * 12, (width,), (width,)]


# name: shapes, steps before the timed ones, timed steps of a start
MODELS = {"resnet18": (resnet18(), 5, 20), "gpt2": (gpt2(), 2, 5), "small": ([(64,)] * 1000, 20, 100)}


def parse(arguments):
    parser = Parser("optimizer_step", __doc__, ("a start", 300))
    parser.add_argument("--ranks", type=positive, action="append", help="processes, one thread each (default: 1, then 2)")
    parser.add_argument("--model", choices=MODELS, action="append", help="shapes of the parameters (default: all)")
    parser.add_argument("--rounds", type=positive, default=5, help="starts of each variant (default 5)")
    parser.add_argument("--steps", type=positive, help="timed steps a start (default 20, 5, 100)")
    parser.add_argument("--no-python", action="store_true", help="leave Python's side out")
    options = parser.parse(arguments)
    options.all_ranks = options.ranks or [1, 2]
    return options


def run_once(options, model, variant):
    """Starts a variant once; the median step of the slowest rank in milliseconds."""
    shapes, warmup, steps = MODELS[model]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "shapes")
        with open(path, "w", encoding="ascii") as file:
            file.writelines(" ".join(map(str, shape)) + "\n" for shape in shapes)
        program = [options.program]
        if variant.split("_")[0] in PYTHON:
            program = [options.python, os.path.join(FOLDER, "optimizer_step.py")]
        command = [*program, "--variant", variant, "--shapes", path, "--output", folder]
        command += ["--warmup", str(warmup), "--steps", str(options.steps or steps)]
        Job([command] * options.ranks, rank_environments(options)).wait(options.deadline)
        figures = []
        for rank in range(options.ranks):
            with open(os.path.join(folder, f"rank{rank}.json"), encoding="ascii") as file:
                figures.append(statistics.median(json.load(file)["steps_ms"]))
        return max(figures)


def run_rounds(options, model, variants):
    """Each round starts each variant once, in an order that turns, so that drift of the machine hits all alike."""
    raw = {variant: [] for variant in variants}
    for number in range(options.rounds):
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            show_progress(f"{model}, {options.ranks} ranks: round {number + 1} of {options.rounds}, {variant}")
            try:
                raw[variant].append(run_once(options, model, variant))
            except (JobError, OSError, ValueError) as error:
                show_progress("")
                raise JobError(f"variant {variant}, {model}, round {number + 1}: {error}") from None
    show_progress("")
    return raw


def ratio(raw, other, optimizer):
    """How many times as fast as `other` Lockstep is: the median over the rounds of the ratio in a round."""
    theirs, ours = raw.get(f"{other}_{optimizer}"), raw[f"lockstep_{optimizer}"]
    return statistics.median(a / b for a, b in zip(theirs, ours)) if theirs else None


def summarize(raw):
    ratios = {f"{optimizer}_vs_libtorch": ratio(raw, "libtorch", optimizer) for optimizer in OPTIMIZERS}
    for optimizer in OPTIMIZERS:
        against = [ratio(raw, way, optimizer) for way in PYTHON]
        # The fastest of Python's ways.
        ratios[f"{optimizer}_vs_python"] = min(against) if None not in against else None
    return ratios


def print_table(options, model, raw):
    shapes = MODELS[model][0]
    elements = sum(math.prod(shape) for shape in shapes)
    print(f"{model}: {elements / 1e6:.1f} million parameters in {len(shapes)} tensors, {options.ranks} ranks,", end=" ")
    print(f"{options.rounds} rounds; milliseconds a step of the slowest rank")
    print(f"{'variant':<16} {'step':>9} {'min':>9} {'max':>9}")
    for variant, times in raw.items():
        print(f"{variant:<16} {statistics.median(times):>9.3f} {min(times):>9.3f} {max(times):>9.3f}")


def run(options, command):
    versions = find_versions(options)
    has_python = not options.no_python and "python_torch" in versions
    if not has_python:
        print("benchmark: Python's side is left out", file=sys.stderr)
    variants = [f"{side}_{name}" for name in OPTIMIZERS for side in OWN + (PYTHON if has_python else [])]
    first = None
    for model in options.model or MODELS:
        for options.ranks in options.all_ranks:
            raw = run_rounds(options, model, variants)
            ratios = summarize(raw)
            print_table(options, model, raw)
            if not options.no_record:
                append_record(
                    "optimizer_step.jsonl",
                    "optimizer_step",
                    command,
                    versions=versions,
                    model=model,
                    ranks=options.ranks,
                    unit="ms, raw: variant -> round, median step of the slowest rank",
                    raw=raw,
                    ratios={name: None if value is None else round(value, 4) for name, value in ratios.items()},
                )
            shown = {name: NOT_MEASURED if value is None else f"{value:.2f}" for name, value in ratios.items()}
            print(f"{model}, {options.ranks} ranks: " + " ".join(f"{name}={value}" for name, value in shown.items()), flush=True)
            first = first or shown
    # The first model on the fewest ranks, which the aims are about.
    print_result(first)


if __name__ == "__main__":
    sys.exit(main("optimizer_step", parse, run))

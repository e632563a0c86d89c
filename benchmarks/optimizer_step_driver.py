# SPDX-License-Identifier: BSD-3-Clause
"""Runs the optimizer benchmark: a step of Lockstep's optimizers, of LibTorch's, and of Python's, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import math
import os
import statistics
import sys
import tempfile

from driver import Parser, append_record, main, pairs, positive, print_result, rounded, shown
from sides import figures_of_ranks, find_versions, has_python, in_turns, print_table, program_of, rank_processes, ratio

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
    parser.number("--rounds", 5, "starts of each variant")
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
        program = program_of(options, "optimizer_step.py" if variant.split("_")[0] in PYTHON else None)
        command = [*program, "--variant", variant, "--shapes", path, "--output", folder]
        command += ["--warmup", str(warmup), "--steps", str(options.steps or steps)]
        rank_processes(command, options.ranks).wait(options.deadline)
        return max(statistics.median(figures["steps_ms"]) for figures in figures_of_ranks(folder, options.ranks))


def summarize(raw):
    """How many times as fast Lockstep is."""
    def speedup(other, optimizer):
        return ratio(raw, f"{other}_{optimizer}", f"lockstep_{optimizer}")

    ratios = {f"{optimizer}_vs_libtorch": speedup("libtorch", optimizer) for optimizer in OPTIMIZERS}
    for optimizer in OPTIMIZERS:
        against = [speedup(way, optimizer) for way in PYTHON]
        # The fastest of Python's ways.
        ratios[f"{optimizer}_vs_python"] = min(against) if None not in against else None
    return ratios


def print_heading(options, model):
    shapes = MODELS[model][0]
    elements = sum(math.prod(shape) for shape in shapes)
    print(f"{model}: {elements / 1e6:.1f} million parameters in {len(shapes)} tensors, {options.ranks} ranks,", end=" ")
    print(f"{options.rounds} rounds; milliseconds a step of the slowest rank")


def run(options, command):
    versions = find_versions(options)
    sides = OWN + (PYTHON if has_python(options, versions) else [])
    variants = [f"{side}_{name}" for name in OPTIMIZERS for side in sides]
    first = None
    for model in options.model or MODELS:
        for options.ranks in options.all_ranks:
            what = f"{model}, {options.ranks} ranks"
            raw = in_turns(options, variants, lambda variant: run_once(options, model, variant), what)
            ratios = summarize(raw)
            print_heading(options, model)
            print_table(raw, "variant", 16, "9.3f", middle="step")
            append_record(
                options,
                "optimizer_step",
                command,
                versions=versions,
                model=model,
                ranks=options.ranks,
                unit="ms, raw: variant -> round, median step of the slowest rank",
                raw=raw,
                ratios=rounded(ratios),
            )
            print(f"{what}: {pairs(shown(ratios))}", flush=True)
            first = first or shown(ratios)
    # The first model on the fewest ranks, which the aims are about.
    print_result(first)


if __name__ == "__main__":
    sys.exit(main("optimizer_step", parse, run))

# SPDX-License-Identifier: BSD-3-Clause
"""A training step of a transformer in stages: against the unsplit model, the simulator, and torch's pipelining over gloo.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import statistics
import sys

from driver import Parser, append_record, main, print_result, rounded, shown
from sides import chosen, figures_in, find_versions, in_turns, one_process, program_of, rank_processes, spread, words

# Name of a side: schedule, stages a rank, whether slots are used.
SIDES = {
    "1f1b": ("1f1b", 1, 1),
    "1f1b_messages": ("1f1b", 1, 0),
    "interleaved": ("interleaved", 2, 1),
    "zero_bubble": ("zero_bubble", 1, 1),
}
TOLERANCE = 1e-4  # of a loss
SHAPE = ["microbatches", "rows", "tokens", "width", "layers", "warmup", "steps"]


def parse(arguments):
    parser = Parser("pipeline", __doc__, ("one start of a side", 120))
    parser.number("--ranks", 2, "processes, one thread each")
    parser.number("--microbatches", 8, "parts of a batch")
    parser.number("--rows", 4, "rows of a microbatch")
    parser.number("--tokens", 64, "tokens of a row")
    parser.number("--width", 256, "columns of the model")
    parser.number("--layers", 8, "blocks of the model")
    parser.number("--rounds", 5, "starts of each side")
    parser.number("--warmup", 2, "steps before those that count")
    parser.number("--steps", 6, "steps of a start")
    parser.add_argument("--no-python", action="store_true", help="leave torch's pipelining out")
    return parser.parse(arguments)


def run_once(options, side):
    shape = words(options, SHAPE)
    if side == "torch":
        command = [*program_of(options, "pipeline_step.py"), *shape]
    elif side == "unsplit":
        # All stages on one rank: the same microbatches, and the times of the same stages alone on the machine.
        command = [options.program, *shape, "--schedule", "gpipe", "--stages-per-rank", str(options.ranks)]
    else:
        schedule, per_rank, slots = SIDES[side]
        command = [options.program, *shape, "--schedule", schedule, "--stages-per-rank", str(per_rank), "--slots", str(slots)]
    return figures_in(rank_processes(command, 1 if side == "unsplit" else options.ranks).wait(options.deadline))


def predict(options, unsplit):
    """The step of 1F1B, were its stages as fast as one after the other on one core."""
    pairs = [[statistics.median(r["costs"][stage][kind] for r in unsplit) for kind in (0, 3)] for stage in range(options.ranks)]
    costs = ",".join(str(value) for pair in pairs for value in pair)
    command = [options.program, "--predict", costs, "--ranks", str(options.ranks), "--microbatches", str(options.microbatches)]
    return figures_in(one_process(command).wait(options.deadline))["predicted_ms"]


def loss_difference(raw):
    """The largest difference of a step's loss, of any side from the first one."""
    reference = next(iter(raw.values()))[0]["losses"]
    return max(
        abs(loss - other)
        for rounds in raw.values()
        for figures in rounds
        for loss, other in zip(figures["losses"], reference, strict=True)
    )


def run(options, command):
    versions = find_versions(options)
    sides = ["unsplit", *SIDES]
    if "python_torch" in versions and not options.no_python:
        sides.append("torch")
    raw = in_turns(options, sides, lambda side: run_once(options, side))
    steps = {side: [statistics.median(r["step_ms"]) for r in rounds] for side, rounds in raw.items()}
    medians = {side: statistics.median(values) for side, values in steps.items()}
    # Of each start, from the times of its own actions.
    errors = {
        side: statistics.median(abs(r["predicted_ms"] - step) / step for r, step in zip(raw[side], steps[side])) for side in SIDES
    }
    alone = predict(options, raw["unsplit"])
    difference = loss_difference(raw)
    print(f"{options.layers} blocks of width {options.width}, {options.ranks} ranks, {options.microbatches} microbatches of")
    print(f"{options.rows} x {options.tokens} tokens, {options.rounds} rounds; milliseconds a step; 1F1B by the simulator: {alone:.1f}")
    for side in sides:
        error = f"   prediction off by {errors[side]:.1%}" if side in errors else ""
        print(f"{side:<16} {spread(steps[side], '8.1f')}   {medians['unsplit'] / medians[side]:.2f} x unsplit{error}")
    print(f"largest difference of a step's loss: {difference:.2g}")
    ratios = {
        "of_simulator": alone / medians["1f1b"],
        "prediction_error": errors["1f1b"],
        "vs_torch": medians["torch"] / medians["1f1b"] if "torch" in medians else None,
        "vs_unsplit": medians["unsplit"] / medians["1f1b"],
        "vs_messages": medians["1f1b_messages"] / medians["1f1b"],
        "zero_bubble_vs_1f1b": medians["1f1b"] / medians["zero_bubble"],
        "interleaved_vs_1f1b": medians["1f1b"] / medians["interleaved"],
    }
    append_record(
        options,
        "pipeline",
        command,
        versions=versions,
        **chosen(options, ["ranks", *SHAPE]),
        unit="milliseconds a step; side -> start",
        raw=raw,
        medians=rounded(medians, 3),
        simulated_ms=round(alone, 3),
        prediction_errors=rounded(errors),
        ratios=rounded(ratios, 3),
        loss_difference=difference,
    )
    print_result({**shown(ratios, ".3f"), "same_loss": int(difference <= TOLERANCE)})


if __name__ == "__main__":
    sys.exit(main("pipeline", parse, run))

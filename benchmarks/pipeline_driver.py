# SPDX-License-Identifier: BSD-3-Clause
"""A training step of a transformer in stages: against the unsplit model, the simulator, and torch's pipelining over gloo.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import json
import os
import statistics
import sys

from ddp_step_driver import NOT_MEASURED, find_versions, rank_environments
from driver import FOLDER, Parser, append_record, main, positive, print_result, show_progress
from jobs import Job, JobError

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
    parser.add_argument("--ranks", type=positive, default=2, help="processes, one thread each (default 2)")
    parser.add_argument("--microbatches", type=positive, default=8, help="parts of a batch (default 8)")
    parser.add_argument("--rows", type=positive, default=4, help="rows of a microbatch (default 4)")
    parser.add_argument("--tokens", type=positive, default=64, help="tokens of a row (default 64)")
    parser.add_argument("--width", type=positive, default=256, help="columns of the model (default 256)")
    parser.add_argument("--layers", type=positive, default=8, help="blocks of the model (default 8)")
    parser.add_argument("--rounds", type=positive, default=5, help="starts of each side (default 5)")
    parser.add_argument("--warmup", type=positive, default=2, help="steps before those that count (default 2)")
    parser.add_argument("--steps", type=positive, default=6, help="steps of a start (default 6)")
    parser.add_argument("--no-python", action="store_true", help="leave torch's pipelining out")
    return parser.parse(arguments)


def last_json(text, side):
    try:
        return json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise JobError(f"{side} printed {text!r}") from error


def run_once(options, side, ranks):
    shape = [word for name in SHAPE for word in (f"--{name}", str(getattr(options, name)))]
    if side == "torch":
        command = [options.python, os.path.join(FOLDER, "pipeline_step.py"), *shape]
    elif side == "unsplit":
        # All stages on one rank: the same microbatches, and the times of the same stages alone on the machine.
        command = [options.program, *shape, "--schedule", "gpipe", "--stages-per-rank", str(options.ranks)]
    else:
        schedule, per_rank, slots = SIDES[side]
        command = [options.program, *shape, "--schedule", schedule, "--stages-per-rank", str(per_rank), "--slots", str(slots)]
    environments = rank_environments(options)[:ranks]
    if ranks == 1:
        environments = [dict(environments[0], WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")]
    return last_json(Job([command] * ranks, environments).wait(options.deadline), side)


def run_rounds(options, sides):
    raw = {side: [] for side in sides}
    for number in range(options.rounds):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            show_progress(f"round {number + 1} of {options.rounds}, {side}")
            try:
                raw[side].append(run_once(options, side, 1 if side == "unsplit" else options.ranks))
            except JobError as error:
                show_progress("")
                raise JobError(f"{side}, round {number + 1}: {error}") from None
    show_progress("")
    return raw


def predict(options, unsplit):
    """The step of 1F1B, were its stages as fast as one after the other on one core."""
    pairs = [[statistics.median(r["costs"][stage][kind] for r in unsplit) for kind in (0, 3)] for stage in range(options.ranks)]
    costs = ",".join(str(value) for pair in pairs for value in pair)
    command = [options.program, "--predict", costs, "--ranks", str(options.ranks), "--microbatches", str(options.microbatches)]
    return last_json(Job([command], [dict(os.environ)]).wait(options.deadline), "the simulator")["predicted_ms"]


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
    raw = run_rounds(options, sides)
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
        print(f"{side:<16} {medians[side]:>8.1f} {min(steps[side]):>8.1f} {max(steps[side]):>8.1f}"
              f"   {medians['unsplit'] / medians[side]:.2f} x unsplit{error}")
    print(f"largest difference of a step's loss: {difference:.2g}")
    shown = {
        "of_simulator": alone / medians["1f1b"],
        "prediction_error": errors["1f1b"],
        "vs_torch": medians["torch"] / medians["1f1b"] if "torch" in medians else None,
        "vs_unsplit": medians["unsplit"] / medians["1f1b"],
        "vs_messages": medians["1f1b_messages"] / medians["1f1b"],
        "zero_bubble_vs_1f1b": medians["1f1b"] / medians["zero_bubble"],
        "interleaved_vs_1f1b": medians["1f1b"] / medians["interleaved"],
    }
    if not options.no_record:
        append_record(
            "pipeline.jsonl",
            "pipeline",
            command,
            versions=versions,
            **{name: getattr(options, name) for name in ["ranks", *SHAPE]},
            unit="milliseconds a step; side -> start",
            raw=raw,
            medians={side: round(value, 3) for side, value in medians.items()},
            simulated_ms=round(alone, 3),
            prediction_errors={side: round(value, 4) for side, value in errors.items()},
            ratios={name: value and round(value, 3) for name, value in shown.items()},
            loss_difference=difference,
        )
    figures = {name: NOT_MEASURED if value is None else f"{value:.3f}" for name, value in shown.items()}
    print_result({**figures, "same_loss": int(difference <= TOLERANCE)})


if __name__ == "__main__":
    sys.exit(main("pipeline", parse, run))

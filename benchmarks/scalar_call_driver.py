# SPDX-License-Identifier: BSD-3-Clause
"""Measures how long a scalar for TensorBoard keeps its caller, here and with Python's writer, and appends a record.

Both sides run in turns. Python's is left out where the package tensorboard is missing: LOCKSTEP_WITH_TESTS=1 tools/setup.sh
installs it.
"""

import json
import os
import statistics
import sys

from driver import FOLDER, ROOT, Parser, append_record, main, output_of, positive, print_result, show_progress
from jobs import Job, JobError

WHEELS = os.path.join(ROOT, "build", "test_wheels")
NOT_MEASURED = "n/a"


def parse(arguments):
    parser = Parser("scalar_call", __doc__, ("one run of a side", 300))
    parser.add_argument("--rounds", type=positive, default=5, help="runs of each side (default 5)")
    parser.add_argument("--calls", type=positive, default=200_000, help="calls in bursts (default 200000; Python's: a tenth)")
    return parser.parse(arguments)


def figures_of(command, deadline):
    text = Job([command], [dict(os.environ)]).wait(deadline)
    try:
        return json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise JobError(f"{os.path.basename(command[0])} printed {text!r}") from error


def sides_of(options):
    sides = {"lockstep": [options.program, str(options.calls)]}
    has_package = "import sys; sys.path.insert(0, sys.argv[1]); import torch.utils.tensorboard"
    if options.python and output_of([options.python, "-c", has_package, WHEELS]) is not None:
        sides["python"] = [options.python, os.path.join(FOLDER, "scalar_call.py"), WHEELS, str(max(options.calls // 10, 100))]
    else:
        print("benchmark: there is no package tensorboard; Python's side is left out", file=sys.stderr)
    return sides


def run(options, command):
    sides = sides_of(options)
    raw = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, side in sides.items():
            show_progress(f"round {number + 1} of {options.rounds}: {name}")
            raw[name].append(figures_of(side, options.deadline))
    show_progress("")
    median = {name: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]} for name, rounds in raw.items()}
    if not options.no_record:
        append_record("scalar_call.jsonl", "scalar_call", command, calls=options.calls, raw=raw, median=median)
    ours, python = median["lockstep"], median.get("python")
    print_result(
        {
            "scalar_ns": round(ours["scalar_call_p50_ns"]),
            "scalar_p99_ns": round(ours["scalar_call_p99_ns"]),
            "million_s": f"{ours['million_written_s']:.3f}",
            "python_ns": round(python["scalar_call_p50_ns"]) if python else NOT_MEASURED,
        }
    )


if __name__ == "__main__":
    sys.exit(main("scalar_call", parse, run))

# SPDX-License-Identifier: BSD-3-Clause
"""Measures how long a scalar for TensorBoard keeps its caller, here and with Python's writer, and appends a record.

Both sides run in turns. Python's is left out where the package tensorboard is missing: LOCKSTEP_WITH_TESTS=1 tools/setup.sh
installs it.
"""

import os
import statistics
import sys

from driver import NOT_MEASURED, ROOT, Parser, append_record, main, output_of, positive, print_result
from sides import figures_in, in_turns, one_process, program_of

WHEELS = os.path.join(ROOT, "build", "test_wheels")


def parse(arguments):
    parser = Parser("scalar_call", __doc__, ("one run of a side", 300))
    parser.number("--rounds", 5, "runs of each side")
    parser.add_argument("--calls", type=positive, default=200_000, help="calls in bursts (default 200000; Python's: a tenth)")
    return parser.parse(arguments)


def sides_of(options):
    sides = {"lockstep": [options.program, str(options.calls)]}
    has_package = "import sys; sys.path.insert(0, sys.argv[1]); import torch.utils.tensorboard"
    if options.python and output_of([options.python, "-c", has_package, WHEELS]) is not None:
        sides["python"] = [*program_of(options, "scalar_call.py"), WHEELS, str(max(options.calls // 10, 100))]
    else:
        print("benchmark: there is no package tensorboard; Python's side is left out", file=sys.stderr)
    return sides


def run(options, command):
    sides = sides_of(options)
    raw = in_turns(options, sides, lambda name: figures_in(one_process(sides[name]).wait(options.deadline)))
    median = {name: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]} for name, rounds in raw.items()}
    append_record(options, "scalar_call", command, calls=options.calls, raw=raw, median=median)
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

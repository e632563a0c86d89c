#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/05_ensemble: together the models are better than each alone, also when one is killed.

    ensemble_program_test.py --program ENSEMBLE
"""

import os
import re
import sys

import example_runs

RESULT = re.compile(
    r"result: accuracy=([0-9.]+) best_member=([0-9.]+) p50_ms=[0-9.]+ p99_ms=[0-9.]+ p999_ms=[0-9.]+ "
    r"answered=(\d+) partial=(\d+) restarts=(\d+)"
)


class Run(example_runs.Run):
    name = "ensemble"

    def result(self):
        self.check(self.code == 0 and self.stderr == "", "it must succeed without a word on stderr")
        found = RESULT.fullmatch(self.stdout.splitlines()[-1])
        self.check(found, "the last line must be the result")
        return [float(figure) for figure in found.groups()]


def test_serving(context, folder):
    """The models are trained once, and a second run finds them. The same seeds give the same models and answers."""
    first = Run(context, None, ["--folder", folder, "--images", "1920", "--requests", "2000"])
    accuracy, best, answered, partial, restarts = first.result()
    first.check(accuracy > best > 0.5, "together they are better than each alone")
    first.check((answered, partial, restarts) == (2000, 0, 0), "all answer all requests")
    again = Run(context, None, ["--folder", folder, "--requests", "1000", "--kill"])
    accuracy, best, answered, partial, restarts = again.result()
    again.check("trained" not in again.stdout, "the models are there")
    again.check(accuracy > 0.5 and answered == 1000 and restarts == 1, "one is killed and comes back")
    check_mistakes(context, [os.path.join(folder, name) for name in ("seed1.safetensors", "seed2.safetensors")])


def check_mistakes(context, weights):
    Run(context, None, ["--requests", "0"]).check_error(2, "--requests")
    Run(context, None, ["--models", *weights, "--quorum", "3"]).check_error(1, "quorum is 3")
    run = Run(context, None, ["--models", *weights, "--arch", "resnet14"])
    run.check_error(1, "could not be started")
    run.check(re.search("member seed[12] could not be started", run.stderr), "it names the member")


def main():
    context = example_runs.parser_of(__doc__).parse_args()
    if not os.path.isdir(example_runs.IMAGES):
        return example_runs.skipped_without(example_runs.IMAGES)
    return example_runs.run_tests(context, [test_serving])


if __name__ == "__main__":
    sys.exit(main())

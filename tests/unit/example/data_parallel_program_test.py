#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/07_data_parallel: it learns with two and with three ranks, and says what is wrong.

    data_parallel_program_test.py --program DATA_PARALLEL
"""

import os
import re
import sys

import example_runs

RESULT = re.compile(r"result: accuracy=([0-9.]+) samples_per_second=\d+ seconds=\d+ ranks=(\d)")


class Run(example_runs.Run):
    name = "data_parallel"


def test_learning(context, _):
    """It comes far above the tenth that guessing gives."""
    for ranks in (2, 3):
        run = Run(context, None, ["--ranks", str(ranks), "--limit", "4800", "--batch", "48", "--lr", "0.05"])
        run.check(run.code == 0 and run.stderr == "", "it must succeed without a word on stderr")
        result = RESULT.fullmatch(run.stdout.splitlines()[-1])
        run.check(result and int(result[2]) == ranks, f"the last line must be the result of {ranks} ranks")
        run.check(float(result[1]) > 0.5, "it must learn")


def test_mistakes(context, _):
    Run(context, None, ["--ranks", "0"]).check_error(2, "--ranks")
    Run(context, None, ["--data", os.path.dirname(os.path.abspath(__file__))]).check_error(1, "train-images-idx3-ubyte.gz")


def main():
    context = example_runs.parser_of(__doc__).parse_args()
    if not os.path.isdir(example_runs.IMAGES):
        return example_runs.skipped_without(example_runs.IMAGES)
    return example_runs.run_tests(context, [test_learning, test_mistakes])


if __name__ == "__main__":
    sys.exit(main())

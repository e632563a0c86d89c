#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/08_pipeline: stages on one and two ranks, and on two ranks twice.

    pipeline_program_test.py --program PIPELINE --text-to-tokens TEXT_TO_TOKENS --mpirun tests/support/mpirun.sh [--without-mpi]
"""

import re
import sys

import example_runs
from example_runs import write_tokens

LOSS = re.compile(r"step (\d+): loss (\d+\.\d{4})")
SMALL = ["--block", "16", "--layers", "2", "--width", "16", "--batch", "8", "--microbatches", "4", "--steps", "20"]


class Run(example_runs.Run):
    name = "pipeline"

    def losses(self):
        self.check(self.code == 0 and self.stderr == "", "it must succeed without a word on stderr")
        found = [match for match in map(LOSS.fullmatch, self.stdout.splitlines()) if match]
        self.check([int(match.group(1)) for match in found] == [10, 20], "a loss each ten steps, of rank 0 alone")
        self.check(re.search(r"a step took \d+\.\d\d ms", self.stdout), "the last line has the time of a step")
        self.check("0F0" in self.stdout or "F0" in self.stdout, "the plan is printed")
        return [float(match.group(2)) for match in found]


def test_training(context, folder):
    """The same number of stages gives the same losses, on however many ranks they lie."""
    write_tokens(context, folder)
    data = ["--data", folder, *SMALL]
    two_on_one = Run(context, None, [*data, "--schedule", "zbv"]).losses()
    assert two_on_one[1] < two_on_one[0] - 0.1, f"it learns: {two_on_one}"
    if not context.mpi:
        return
    for schedule in ("1f1b", "zero_bubble"):
        losses = Run(context, 2, [*data, "--schedule", schedule]).losses()
        assert losses == two_on_one, f"{schedule}: {losses} instead of {two_on_one}"
    both = Run(context, 4, [*data, "--replicas", "2"]).losses()
    assert both[1] < both[0], both


def test_usage(context, folder):
    """Mistakes on the command line: one line, exit code 2."""
    for arguments, parts in (
            ([], ["--data"]),
            (["--data", folder, "--schedule", "none"], ["--schedule"]),
            (["--data", folder, "--microbatches", "0"], ["--microbatches"])):
        Run(context, None, arguments).check_error(2, *parts)
    Run(context, None, ["--data", folder]).check_error(1, "train.bin")
    Run(context, None, ["--data", folder, "--replicas", "2"]).check_error(1, "--replicas 2 does not divide 1 ranks")


def main():
    context = example_runs.parser_of(__doc__, "--text-to-tokens", "--mpirun").parse_args()
    return example_runs.run_tests(context, [test_usage, test_training])


if __name__ == "__main__":
    sys.exit(main())

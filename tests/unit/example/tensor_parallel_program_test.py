#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/09_tensor_parallel: however many processes share the model, the losses are the same.

    tensor_parallel_program_test.py --program TENSOR_PARALLEL --text-to-tokens TEXT_TO_TOKENS --mpirun tests/support/mpirun.sh
                                    [--without-mpi]
"""

import os
import re
import sys

import example_runs
from example_runs import bytes_of, write_tokens

RESULT = re.compile(r"result: validation_loss=(\d+\.\d{4}) ranks=(\d+) tensor=(\d+)")
SMALL = ["--block", "16", "--layers", "2", "--heads", "4", "--width", "32", "--steps", "12", "--report-every", "4", "--lr", "0.01",
         "--validation-windows", "8"]
TOLERANCE = 2e-3  # of a loss of about 4 after 12 steps: sums are rounded in another order


class Run(example_runs.Run):
    name = "tensor_parallel"

    def losses(self, ranks, tensor):
        """Those of the reports, and the validation loss at the end."""
        self.check(self.code == 0 and self.stderr == "", "it must succeed without a word on stderr")
        last = RESULT.fullmatch(self.stdout.rstrip("\n").split("\n")[-1])
        self.check(last and last.groups()[1:] == (str(ranks), str(tensor)), f"the result of {ranks} ranks must be last")
        found = re.findall(r"^step \d+/12: loss (\d+\.\d{4})$", self.stdout, re.MULTILINE)
        self.check(len(found) == 3, "three reports, of rank 0 only")
        return [float(text) for text in [*found, last.group(1)]]


def changed(name, value):
    """SMALL with another value."""
    arguments = list(SMALL)
    arguments[arguments.index(name) + 1] = value
    return arguments


def test_training(context, folder):
    write_tokens(context, folder)
    data = ["--data", folder, *SMALL]
    weights = os.path.join(folder, "weights.safetensors")
    alone = Run(context, None, [*data, "--batch-size", "8", "--save", weights]).losses(1, 1)
    assert alone[0] > alone[2] and alone[3] < 4.5, f"it must learn: {alone}"
    if not context.mpi:
        return
    for ranks, tensor, batch in ((2, 2, 8), (4, 2, 4)):
        run = Run(context, ranks, [*data, "--tensor", str(tensor), "--batch-size", str(batch)])
        shared = run.losses(ranks, tensor)
        # With replicas, the report is of one half of the batch.
        compared = range(4) if ranks == tensor else [3]
        run.check(all(abs(shared[i] - alone[i]) < TOLERANCE for i in compared), f"the losses must be {alone}")
    # What one process saved, two processes load and save again, without a step that matters.
    again = os.path.join(folder, "again.safetensors")
    still = ["--load", weights, "--batch-size", "8", "--save", again]
    loaded = Run(context, 2, ["--data", folder, *changed("--lr", "1e-8"), *still]).losses(2, 2)
    assert abs(loaded[3] - alone[3]) < TOLERANCE, f"{loaded[3]} with the weights that had {alone[3]}"
    assert len(bytes_of(again)) == len(bytes_of(weights)) and bytes_of(again)[:400] == bytes_of(weights)[:400], "the same names and shapes"


def test_mistakes(context, folder):
    Run(context, None, []).check_error(2, "--data")
    Run(context, None, ["--data", folder]).check_error(1, "train.bin")
    write_tokens(context, folder)
    Run(context, None, ["--data", folder, *SMALL, "--tensor", "2"]).check_error(1, "2")
    Run(context, None, ["--data", folder, *changed("--heads", "5")]).check_error(1, "width of 32 with 5 heads")


def main():
    context = example_runs.parser_of(__doc__, "--text-to-tokens", "--mpirun").parse_args()
    return example_runs.run_tests(context, [test_mistakes, test_training])


if __name__ == "__main__":
    sys.exit(main())

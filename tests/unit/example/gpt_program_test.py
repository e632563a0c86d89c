#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/gpt as people do: good runs end in the result line, bad input gets one line.

    gpt_program_test.py --program GPT --text-to-tokens TEXT_TO_TOKENS --mpirun tests/support/mpirun.sh [--without-mpi]
"""

import os
import re
import subprocess
import sys

import example_runs
from example_runs import bytes_of, write_tokens

RESULT = re.compile(r"result: validation_loss=(\d+\.\d{4}) tokens_per_second=\d+ seconds=\d+ ranks=(\d+)")
REPORT = re.compile(r"step (\d+)/(\d+): loss (\d+\.\d{3}), validation loss (\d+\.\d{4}); \d+ tokens/s")
SMALL = ["--block", "16", "--layers", "1", "--heads", "2", "--width", "16", "--steps", "12", "--warmup", "2", "--lr", "0.01",
         "--average", "0.8", "--sample", "20", "--prompt", "1", "--report-every", "6", "--validation-windows", "40",
         "--threads", "1", "--timeout", "120"]


class Run(example_runs.Run):
    name = "gpt"

    def check_result(self, ranks):
        """The validation loss."""
        self.check(self.code == 0, "the exit code must be 0")
        self.check(self.stderr == "", "stderr must be empty")
        last = self.stdout.rstrip("\n").split("\n")[-1]
        match = RESULT.fullmatch(last)
        self.check(match and match.group(2) == str(ranks), f"the last line '{last}' must be the result of {ranks} ranks")
        self.check(self.stdout.count("result:") == 1, "only rank 0 prints the result")
        return float(match.group(1))

    def reports(self):
        """Step, loss and validation loss of each report."""
        found = [match for match in map(REPORT.fullmatch, self.stdout.splitlines()) if match]
        return [(int(match.group(1)), float(match.group(3)), float(match.group(4))) for match in found]


def test_training(context, folder):
    """World sizes, workers and accumulation: where a step sees the same windows, the losses are the same."""
    write_tokens(context, folder)
    data = ["--data", folder, *SMALL]
    alone = Run(context, None, [*data, "--batch-size", "8", "--workers", "0"])
    loss = alone.check_result(1)
    reports = alone.reports()
    alone.check([step for step, _, _ in reports] == [6, 12] and reports[-1][2] == loss, "a report each 6 steps")
    alone.check(reports[0][1] > reports[1][1] and loss < 4.5, "it learns: ln 256 is 5.5")
    samples = alone.stdout.split("----\n")[1::2]
    alone.check(len(samples) == 2 and all(text[0] == "1" and len(text) == 22 for text in samples), f"samples: {samples}")
    same = [
        (1, ["--batch-size", "4", "--accumulate", "2"]),
        (2, ["--batch-size", "4"]),
        (2, ["--batch-size", "2", "--accumulate", "2", "--workers", "2"]),
    ]
    for ranks, arguments in same if context.mpi else same[:1]:
        run = Run(context, ranks if context.mpi else None, [*data, *arguments])
        other = run.check_result(ranks)
        run.check(abs(other - loss) < 2e-3, f"8 windows a step must give {loss}, however they are shared out")
        # Adam hardly sees a gradient that is twice as large; the loss beside it shows that.
        run.check(abs(run.reports()[-1][1] - reports[-1][1]) < 2e-3, f"the loss in training must be {reports[-1][1]}")
    if context.mpi:
        Run(context, 3, [*data, "--batch-size", "2"]).check_result(3)
    plain = Run(context, None, [*data, "--batch-size", "8", "--average", "0"]).check_result(1)
    assert abs(plain - loss) > 1e-3, "the average is not the weights"
    bf16 = Run(context, None, [*data, "--batch-size", "8", "--bf16"]).check_result(1)
    assert 0 < abs(bf16 - loss) < 0.1, f"bfloat16 rounds, and no more: {bf16}, {loss}"
    Run(context, None, [*data, "--batch-size", "8", "--dropout", "0.1"]).check_result(1)


def test_usage(context, folder):
    """Mistakes on the command line: one line, exit code 2."""
    help_run = Run(context, None, ["--help"])
    help_run.check(help_run.code == 0 and help_run.stdout.count("Usage:") == 1, "help is printed")
    for arguments, parts in (
            ([], ["--data"]),
            (["--data", folder, "--width", "30"], ["--width", "--heads"]),
            (["--data", folder, "--warmup", "3000"], ["--warmup", "--steps"]),
            (["--data", folder, "--lr", "nan"], ["--lr", "'nan'"]),
            (["--data", folder, "--average", "1"], ["--average", "below 1"]),
            (["--data", folder, "--prompt", ""], ["--prompt"]),
            (["--data", folder, "--resume"], ["--resume: needs --checkpoints"])):
        Run(context, None, arguments).check_error(2, *parts)


def test_files(context, folder):
    """Bad files get one line, from one rank, with their name."""
    ranks = 2 if context.mpi else None
    data = ["--data", folder, *SMALL, "--batch-size", "4"]
    Run(context, ranks, data).check_error(1, f"{folder}/train.bin")
    write_tokens(context, folder, lines=16)
    Run(context, ranks, data).check_error(1, "val.bin")  # not one window
    write_tokens(context, folder, lines=30)
    Run(context, ranks, [*data, "--batch-size", "40"]).check_error(1, "train.bin", "batch of 40")
    missing = os.path.join(folder, "none.safetensors")
    Run(context, ranks, [*data, "--weights", missing]).check_error(1, missing)
    done = subprocess.run([context.text_to_tokens, missing, folder], check=False, capture_output=True, text=True)
    assert done.returncode == 1 and missing in done.stderr, done
    # Weights of a run begin another, and say the model's size.
    saved = os.path.join(folder, "saved.safetensors")
    Run(context, None, [*data, "--save", saved]).check_result(1)
    begun = ["--data", folder, "--block", "16", "--weights", saved, "--steps", "1", "--warmup", "0", "--batch-size", "4"]
    Run(context, None, begun).check_error(1, "16", "0 heads")  # 16 columns are no head of 64
    Run(context, None, [*begun, "--heads", "2"]).check_result(1)
    # The width is the file's, and not the option's, which 3 does not divide.
    Run(context, None, [*begun, "--heads", "3"]).check_error(1, "3 heads")
    Run(context, None, [*begun, "--heads", "2", "--block", "17"]).check_error(1, "16 positions", "--block 17")


def test_resume(context, folder):
    """A run that fails and is resumed ends with the bits of one that does not, with average, accumulation and dropout."""
    write_tokens(context, folder, lines=60)  # 8 batches an epoch: the save is in the second of several
    ranks = 2 if context.mpi else None
    whole, resumed, checkpoints = (os.path.join(folder, name) for name in ("whole", "resumed", "c"))
    common = ["--data", folder, *SMALL, "--batch-size", "4", "--accumulate", "2", "--dropout", "0.1"]
    saving = [*common, "--checkpoints", checkpoints, "--checkpoint-every", "2"]
    Run(context, ranks, [*common, "--save", whole]).check_result(ranks or 1)
    failed = Run(context, ranks, [*saving, "--fail-at", "7"])
    failed.check(failed.code == 1 and "as --fail-at asks" in failed.stderr, "it was to fail")
    run = Run(context, ranks, [*saving, "--resume", "--workers", "2", "--save", resumed])
    run.check_result(ranks or 1)
    run.check(any(f"resumed at step {step}" in run.stdout for step in (6, 4)), "it must say where it goes on")
    assert bytes_of(whole) == bytes_of(resumed), "the resumed run has other weights"
    # What is over stays over, and is measured.
    again = Run(context, ranks, [*saving, "--resume"])
    again.check("resumed at step 12" in again.stdout, "it must say where it goes on")
    assert again.check_result(ranks or 1) > 0


def main():
    context = example_runs.parser_of(__doc__, "--text-to-tokens", "--mpirun").parse_args()
    return example_runs.run_tests(context, [test_usage, test_files, test_training, test_resume])


if __name__ == "__main__":
    sys.exit(main())

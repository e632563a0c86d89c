#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/04_data_loader: what it prints, that it learns, and what bad input gets.

    data_loader_program_test.py --program DATA_LOADER --mpirun tests/support/mpirun.sh

After every run there must be no process, no shared-memory object and no temporary folder that was not there before.
"""

import hashlib
import os
import re
import sys

import example_runs

EPOCH = re.compile(r"epoch (\d+): loss (\d+\.\d{4}), accuracy ([01]\.\d{4}), \d+ samples/s")
STATE = re.compile(r"state: lockstep-loader-1:[0-9a-f:]+")
BOTTLENECK = re.compile(r"bottleneck: (consumer|storage|decode|transport): the program waits for data \d+ % of the time.*")


class Run(example_runs.Run):
    name = "data_loader"

    def lines(self, start):
        return [line for line in self.stdout.splitlines() if line.startswith(start)]

    def check_trained(self, ranks, pictures, epochs):
        """The good run's lines, each once; returns loss and accuracy of each epoch."""
        self.check(self.code == 0 and self.stderr == "", "it must succeed without a word on stderr")
        self.check(len(self.lines("pictures: ")) == 1, "rank 0 alone says where the pictures are")
        self.check(self.lines("pictures: ")[0].startswith(f"pictures: {pictures} of 3 classes in /"), "number and place")
        matches = [EPOCH.fullmatch(line) for line in self.lines("epoch ")]
        self.check(len(matches) == epochs and all(matches), f"there must be {epochs} lines of epochs")
        samples = epochs * -(-pictures // ranks)
        self.check(len(self.lines(f"loader: {samples} samples in ")) == 1, f"rank 0 has had {samples} samples")
        self.check(len(self.lines("bottleneck: ")) == 1 and BOTTLENECK.fullmatch(self.lines("bottleneck: ")[0]),
                   "the sentence that names the bottleneck")
        self.check(len(self.lines("state: ")) == 1 and STATE.fullmatch(self.lines("state: ")[0]), "the state in one line")
        self.check(self.lines("resumed: ") == ["resumed: the next batch is the same, bit for bit"], "it goes on there")
        return [(match.group(2), float(match.group(3))) for match in matches]


def digests(folder):
    """What is in each file below the folder."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = hashlib.sha256(file.read()).hexdigest()
    return found


def test_training(context, scratch):
    """Alone and in a world, with any number of workers; pictures are drawn once, and the same ones."""
    folder = os.path.join(scratch, "deep", "pictures")
    drawn = Run(context, 2, ["--folder", folder, "--pictures", "5", "--epochs", "0"])
    drawn.check(drawn.code == 0 and drawn.stdout == f"pictures: 15 of 3 classes in {folder}\n", "it only draws")
    files = digests(folder)
    assert sorted(files) == sorted(f"{name}/{i}.jpg" for name in ("checks", "rings", "stripes") for i in range(5)), files
    assert len(set(files.values())) == 15, "two pictures are alike"

    base = ["--folder", folder, "--epochs", "1", "--batch-size", "4"]
    alone = Run(context, None, [*base, "--workers", "2"]).check_trained(1, 15, 1)
    assert Run(context, 1, [*base, "--workers", "0"]).check_trained(1, 15, 1) == alone, "workers change nothing"
    two = Run(context, 2, [*base, "--workers", "1"]).check_trained(2, 15, 1)
    assert Run(context, 2, [*base, "--workers", "3"]).check_trained(2, 15, 1) == two, "workers change nothing"
    assert digests(folder) == files, "pictures that were there have changed"
    assert os.listdir(os.path.dirname(folder)) == ["pictures"], "something is left beside the folder"

    # In a temporary folder; it learns better than guessing one of three.
    learned = Run(context, 2, ["--epochs", "4"], environment={"TMPDIR": scratch}).check_trained(2, 120, 4)
    assert learned[-1][1] > 0.5, learned
    assert os.listdir(scratch) == ["deep"], "the temporary folder is left"


def test_bad_input(context, scratch):
    """Mistakes on the command line: one line from each rank, exit code 2. Bad folders: their name, exit code 1."""
    for arguments, parts in (
            (["--workers", "-1"], ["--workers", "-1", "1024"]),
            (["--epochs", "many"], ["--epochs", "many"]),
            (["--batch-size", "0"], ["--batch-size"]),
            (["--pictures", "0"], ["--pictures"]),
            (["--what"], ["--what", "--help"])):
        Run(context, None, arguments).check_error(2, *parts)
    help_run = Run(context, None, ["--help"])
    help_run.check(help_run.code == 0 and "--folder FOLDER" in help_run.stdout, "help")

    a_file = os.path.join(scratch, "file")
    with open(a_file, "w", encoding="ascii") as file:
        file.write("no folder")
    Run(context, None, ["--folder", a_file]).check_error(1, a_file)
    Run(context, None, ["--folder", os.path.join(a_file, "below")]).check_error(1, a_file)
    no_class = os.path.join(scratch, "no_class")
    os.makedirs(no_class)
    with open(os.path.join(no_class, "notes.txt"), "w", encoding="ascii") as file:
        file.write("no folder of a class beside it")
    Run(context, None, ["--folder", no_class]).check_error(1, no_class)

    # What rank 0 cannot do ends both ranks at once, not after a timeout.
    refused = Run(context, 2, ["--folder", os.path.join(a_file, "below")])
    refused.check(refused.code == 1, "both ranks end")
    refused.check(refused.errors() and all(a_file in line for line in refused.errors()), "they say why")

    broken = os.path.join(scratch, "broken")
    Run(context, None, ["--folder", broken, "--pictures", "2", "--epochs", "0"])
    with open(os.path.join(broken, "rings", "1.jpg"), "r+b") as file:
        file.truncate(300)
    for workers in ("0", "2"):
        Run(context, None, ["--folder", broken, "--workers", workers]).check_error(1, "rings/1.jpg", "JPEG")


def main():
    context = example_runs.parser_of(__doc__, "--mpirun").parse_args()
    return example_runs.run_tests(context, [test_training, test_bad_input])


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/02_checkpoints: a run that is killed and started again ends as one that nobody killed.

    checkpoints_program_test.py --program CHECKPOINTS --mpirun tests/support/mpirun.sh [--without-mpi]
"""

import os
import re
import sys

import example_runs

END = re.compile(r"step (\d+): digest ([0-9a-f]{16})")
RESUMED = re.compile(r"resumed at step (\d+)")


class Run(example_runs.Run):
    name = "checkpoints"

    def check_ended(self, step):
        """Returns the step at which it went on (None: at the beginning), and the digest."""
        self.check(self.code == 0 and self.stderr == "", "it must succeed without a word on stderr")
        lines = self.stdout.splitlines()
        end = END.fullmatch(lines[-1])
        self.check(end and int(end.group(1)) == step, f"the last line must be of step {step}")
        resumed = RESUMED.fullmatch(lines[0]) if len(lines) == 2 else None
        self.check(len(lines) == (2 if resumed else 1), "rank 0 alone speaks, and says nothing else")
        return int(resumed.group(1)) if resumed else None, end.group(2)

    def check_killed(self):
        self.check(self.code != 0 and self.stdout.count("digest") == 0, "it must have killed itself")


def test_killed_and_resumed(context, scratch, ranks):
    """Killed in the middle of an epoch, twice, and resumed, also with another number of workers."""
    def run(folder, *arguments, steps=100):
        return Run(context, ranks, ["--folder", os.path.join(scratch, folder), "--steps", str(steps), *arguments])

    resumed, whole = run("whole").check_ended(100)
    assert resumed is None, "there was nothing to resume"
    assert run("whole").check_ended(100) == (100, whole), "a run that has ended has nothing to do"

    run("killed", "--kill-at", "25", "--workers", "0").check_killed()
    second = run("killed", "--kill-at", "67")
    second.check_killed()
    # The one of step 10 counted before the one of step 20 began.
    step = int(RESUMED.match(second.stdout).group(1))
    assert step in (10, 20), step
    step, digest = run("killed", "--workers", "1").check_ended(100)
    assert step in (50, 60), step
    assert digest == whole, "other bits than those of the run that nobody killed"
    # The digest does tell runs apart.
    assert run("shorter", steps=99).check_ended(99)[1] != whole


def test_bad_input(context, scratch):
    """Mistakes on the command line: one line, exit code 2. A folder that cannot be: its name, exit code 1;
    one line as well, whatever is in that name."""
    for arguments, parts in (
            ([], ["--folder"]),
            (["--folder", scratch, "--workers", "-1"], ["--workers", "-1"]),
            (["--folder", scratch, "--save-every", "0"], ["--save-every"])):
        Run(context, None, arguments).check_error(2, *parts)
    help_run = Run(context, None, ["--help"])
    help_run.check(help_run.code == 0 and "--kill-at" in help_run.stdout, "help")
    a_file = os.path.join(scratch, "a\nfile")
    with open(a_file, "w", encoding="ascii") as file:
        file.write("no folder")
    Run(context, None, ["--folder", os.path.join(a_file, "c")]).check_error(1, a_file.replace("\n", " "))


def main():
    context = example_runs.parser_of(__doc__, "--mpirun").parse_args()
    resumed = [(test_killed_and_resumed, (ranks,)) for ranks in example_runs.worlds(context)]
    return example_runs.run_tests(context, [test_bad_input, *resumed])


if __name__ == "__main__":
    sys.exit(main())

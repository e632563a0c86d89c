#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/07_data_parallel: it learns with two and with three ranks, and says what is wrong.

    data_parallel_program_test.py --program DATA_PARALLEL
"""

import argparse
import os
import re
import subprocess
import sys

IMAGES = "/usr/share/datasets/fashion-mnist"
RESULT = re.compile(r"result: accuracy=([0-9.]+) samples_per_second=\d+ seconds=\d+ ranks=(\d)")


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_learning(program):
    """It comes far above the tenth that guessing gives."""
    for ranks in (2, 3):
        done = run(program, "--ranks", str(ranks), "--limit", "4800", "--batch", "48", "--lr", "0.05")
        assert done.returncode == 0 and done.stderr == "", f"{ranks} ranks: {done.stderr}"
        result = RESULT.fullmatch(done.stdout.splitlines()[-1])
        assert result and int(result[2]) == ranks, done.stdout
        assert float(result[1]) > 0.5, f"{ranks} ranks: {done.stdout}"


def test_mistakes(program):
    done = run(program, "--ranks", "0")
    assert done.returncode == 2 and "--ranks" in done.stderr, done
    done = run(program, "--data", os.path.dirname(os.path.abspath(__file__)))
    assert done.returncode == 1, done
    assert "train-images-idx3-ubyte.gz" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    program = parser.parse_args().program
    if not os.path.isdir(IMAGES):
        print(f"skipped: there is no {IMAGES}")
        return 77
    test_learning(program)
    test_mistakes(program)
    print("all in order")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Reads the run logs that lockstep::training::RunLog has written.

    for line in run_log.read_run("run"):      # {"t": 1764457387.25, "step": 10, "rank": 0, "loss": 0.31}
        wandb.log(line)

Usage: run_log.py RUN. Prints the values of all logs (*.jsonl, and rotated ones) in the folder RUN and those in it as CSV:
rank, step, time, name, value.
"""

import csv
import json
import re
import sys
from pathlib import Path

NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def parse_line(text):
    """The values of a line, or None for one that is cut or of something else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not {"t", "step", "rank"} <= line.keys():
        return None
    return {name: NOT_FINITE.get(value, value) if isinstance(value, str) else value for name, value in line.items()}


def read_file(path):
    """Yields the lines of one file. A last line that is cut is left out, and so is whatever is no line of a run log."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for text in file:
            line = parse_line(text)
            if line is not None:
                yield line


def log_files(folder):
    """The logs in a folder and those in it: of each log, the rotated files first, the oldest of them at the begin."""
    found = []
    for path in Path(folder).rglob("*.jsonl*"):
        match = re.fullmatch(r"(.*\.jsonl)(?:\.([1-9][0-9]*))?", path.name)
        if match and path.is_file():
            found.append(((str(path.parent), match[1], -int(match[2] or 0)), path))
    return [path for _, path in sorted(found)]


def read_run(folder):
    """Yields the lines of all logs of a run."""
    for path in log_files(folder):
        yield from read_file(path)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    files = log_files(sys.argv[1])
    if not files:
        print(f"run_log: '{sys.argv[1]}' and the folders in it have no run log (*.jsonl)", file=sys.stderr)
        return 1
    writer = csv.writer(sys.stdout)
    writer.writerow(["rank", "step", "time", "name", "value"])
    for path in files:
        for line in read_file(path):
            for name, value in line.items():
                if name not in ("t", "step", "rank"):
                    writer.writerow([line["rank"], line["step"], line["t"], name, value])
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: BSD-3-Clause
"""What the drivers of all benchmarks do alike: arguments, versions, progress, records, and how a run ends."""

import argparse
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys

import machine
from jobs import JobError

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)


class UsageError(Exception):
    pass


class Parser(argparse.ArgumentParser):
    """Knows what every benchmark has: --deadline, --no-record, and what run.sh adds and nobody types."""

    def __init__(self, name, description, deadline):
        super().__init__(prog=f"benchmarks/run.sh {name}", allow_abbrev=False, description=description.splitlines()[0])
        self.deadline = deadline

    def error(self, message):
        raise UsageError(message)

    def parse(self, arguments):
        what, seconds = self.deadline
        self.add_argument(
            "--deadline", type=positive, default=seconds, help=f"seconds {what} may take (default {seconds})"
        )
        self.add_argument("--no-record", action="store_true", help="append nothing to benchmarks/records")
        for hidden in HIDDEN:
            self.add_argument(hidden, default="", help=argparse.SUPPRESS)
        self.add_argument("--check-arguments", action="store_true", help=argparse.SUPPRESS)
        return self.parse_args(arguments)


# Added by run.sh.
HIDDEN = ["--program", "--python", "--torchvision"]


def positive(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


positive.__name__ = "positive number"  # argparse names the type in its message


def show_progress(text):
    """One line that changes, on a terminal only; logs get the table alone."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def output_of(command, **arguments):
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **arguments)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def versions_of(program):
    """What the C++ program says of itself: {name: version}."""
    description = output_of([program, "--describe"])
    if not description:
        raise JobError(f"{os.path.basename(program)} --describe failed")
    return dict(line.split(" ", 1) for line in description.splitlines())


def append_record(file_name, benchmark, command, **figures):
    record = {
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **machine.commit(ROOT),
        "machine": machine.facts(),
        "os": machine.operating_system(),
        "command": command,
        **figures,
    }
    folder = os.path.join(FOLDER, "records")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, file_name), "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def print_result(shown):
    print("result: " + " ".join(f"{name}={value}" for name, value in shown.items()), flush=True)


def visible(name, arguments):
    """The command as a person would type it, without what run.sh added."""
    kept = [a for a in arguments if not a.startswith(tuple(f"{hidden}=" for hidden in HIDDEN))]
    return shlex.join(["benchmarks/run.sh", *([name] if name else []), *kept])


def main(name, parse, run):
    """The exit status. `name` is empty where the first argument is the benchmark's."""
    arguments = sys.argv[1:]
    shown = name or "benchmark"
    try:
        options = parse(arguments)
        if options.check_arguments:
            return 0
        if not options.program:
            raise UsageError(f"start it through {visible(name, [])}")
    except UsageError as error:
        print(f"{shown}: {error}", file=sys.stderr)
        return 2
    # So that the processes of a job are ended when this one is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options, visible(name, arguments))
    except JobError as error:
        print(f"{shown if name else arguments[0]}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0

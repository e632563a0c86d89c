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
from jobs import SKIPPED, JobError, JobSkipped

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
NOT_MEASURED = "n/a"


class UsageError(Exception):
    pass


class Parser(argparse.ArgumentParser):
    """Knows what every benchmark has: --deadline, --no-record, and what run.sh adds and nobody types."""

    def __init__(self, name, description, deadline):
        super().__init__(prog=f"benchmarks/run.sh {name}", allow_abbrev=False, description=description.splitlines()[0])
        self.deadline = deadline

    def error(self, message):
        raise UsageError(message)

    def number(self, name, default, text):
        """An argument that is at least 1; its default is shown."""
        self.add_argument(name, type=positive, default=default, help=f"{text} (default {default})")

    def parse(self, arguments):
        what, seconds = self.deadline
        self.number("--deadline", seconds, f"seconds {what} may take")
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


def append_record(options, benchmark, command, *, file_name=None, **figures):
    """In the file of the benchmark, or in `file_name`; nothing where the caller of the benchmark wants no record."""
    if options.no_record:
        return
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
    with open(os.path.join(folder, file_name or f"{benchmark}.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def rounded(figures, digits=4):
    """For a record. None stays, which is a figure that was not measured."""
    return {name: None if value is None else round(value, digits) for name, value in figures.items()}


def shown(figures, form=".2f"):
    """For a result line."""
    return {name: NOT_MEASURED if value is None else format(value, form) for name, value in figures.items()}


def pairs(figures):
    return " ".join(f"{name}={value}" for name, value in figures.items())


def print_result(figures):
    print(f"result: {pairs(figures)}", flush=True)


def visible(name, arguments):
    """The command as a person would type it, without what run.sh added."""
    kept = [a for a in arguments if not a.startswith(tuple(f"{hidden}=" for hidden in HIDDEN))]
    return shlex.join(["benchmarks/run.sh", *([name] if name else []), *kept])


def main(name, parse, run):
    """The exit status. `name` is empty where the first argument is the benchmark's."""
    arguments = sys.argv[1:]
    who = name or "benchmark"
    try:
        options = parse(arguments)
        if options.check_arguments:
            return 0
        if not options.program:
            raise UsageError(f"start it through {visible(name, [])}")
    except UsageError as error:
        print(f"{who}: {error}", file=sys.stderr)
        return 2
    # So that the processes of a job are ended when this one is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options, visible(name, arguments))
    except JobSkipped as reason:
        print(reason, file=sys.stderr)
        return SKIPPED
    except JobError as error:
        print(f"{name or arguments[0]}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measures what a range and a step of a profiler cost to which nobody listens, in nanoseconds."""

import json
import sys

from driver import Parser, append_record, main, output_of, print_result
from jobs import JobError


def parse(arguments):
    return Parser("profiler_call", __doc__, ("the whole run", 120)).parse(arguments)


def run(options, command):
    output = output_of([options.program])
    if not output:
        raise JobError("profiler_call failed")
    figures = json.loads(output)
    if not options.no_record:
        append_record("profiler_call.jsonl", "profiler_call", command, **figures)
    print_result(figures)


if __name__ == "__main__":
    sys.exit(main("profiler_call", parse, run))

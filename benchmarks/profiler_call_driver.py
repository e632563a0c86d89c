#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measures what a range and a step of a profiler cost to which nobody listens, in nanoseconds."""

import sys

from driver import Parser, append_record, main, print_result
from sides import figures_in, one_process


def parse(arguments):
    return Parser("profiler_call", __doc__, ("the whole run", 120)).parse(arguments)


def run(options, command):
    figures = figures_in(one_process([options.program]).wait(options.deadline))
    append_record(options, "profiler_call", command, **figures)
    print_result(figures)


if __name__ == "__main__":
    sys.exit(main("profiler_call", parse, run))

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks that the program in README.md is the one that is compiled.

Usage: check_readme.py ROOT. Compares README.md's only `cpp` block with the lines between the two `// [program]` markers
of examples/minimal/main.cpp. Exit status 1, with one line, when they differ.
"""

import sys
from itertools import zip_longest
from pathlib import Path

SOURCE = "examples/minimal/main.cpp"
README = "README.md"
MARKER = "// [program]"


class Mismatch(Exception):
    pass


def read_lines(root, name):
    try:
        return (root / name).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Mismatch(f"{name} cannot be read: {error.strerror}") from error


def program_of_source(root):
    lines = read_lines(root, SOURCE)
    marks = [number for number, line in enumerate(lines) if line.strip() == MARKER]
    if len(marks) != 2:
        raise Mismatch(f"{SOURCE} has {len(marks)} lines '{MARKER}', expected 2")
    return lines[marks[0] + 1 : marks[1]], marks[0] + 2


def program_of_readme(root):
    lines = read_lines(root, README)
    starts = [number for number, line in enumerate(lines) if line.rstrip() == "```cpp"]
    if len(starts) != 1:
        raise Mismatch(f"{README} has {len(starts)} blocks '```cpp', expected 1")
    start = starts[0] + 1
    ends = [number for number in range(start, len(lines)) if lines[number].rstrip() == "```"]
    if not ends:
        raise Mismatch(f"{README}:{start}: this block has no end")
    return lines[start : ends[0]], start + 1


def compare(root):
    compiled, compiled_from = program_of_source(root)
    shown, shown_from = program_of_readme(root)
    if not compiled:
        raise Mismatch(f"{SOURCE} has nothing between its two '{MARKER}'")
    for offset, (left, right) in enumerate(zip_longest(compiled, shown)):
        if left != right:
            raise Mismatch(
                f"{README}:{shown_from + offset} is {right!r}, but {SOURCE}:{compiled_from + offset} is {left!r}"
            )
    return len(compiled)


def main():
    if len(sys.argv) != 2:
        print("usage: check_readme.py ROOT", file=sys.stderr)
        return 2
    try:
        count = compare(Path(sys.argv[1]))
    except Mismatch as mismatch:
        print(f"check_readme: {mismatch}")
        return 1
    print(f"check_readme: {count} lines, the same in {README} and {SOURCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

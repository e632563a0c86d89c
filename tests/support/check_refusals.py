#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks that what must not compile is refused in one sentence each.

Usage: check_refusals.py SOURCE COMPILER [ARGUMENT ...]. Each line of SOURCE with `// refused: TEXT` must bring the
compiler to say TEXT in one error; there must be no other error, and few lines around each. Exit status 1, with what was
found, otherwise.
"""

import re
import subprocess
import sys
from pathlib import Path

LINES_A_CASE = 14  # where the types are used and how the compiler came there


def main(source, command):
    expected = re.findall(r"// refused: (.*)$", Path(source).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = subprocess.run([*command, source], capture_output=True, text=True, check=False)
    lines = found.stderr.splitlines()
    errors = [line for line in lines if re.search(r"\berror:", line)]
    problems = []
    if not expected:
        problems.append(f"{source} expects nothing")
    for text in expected:
        count = sum(text in error for error in errors)
        if count != expected.count(text):
            problems.append(f"{count} errors, not {expected.count(text)}, say: {text}")
    for error in errors:
        if not any(text in error for text in expected):
            problems.append(f"not expected: {error}")
    if len(lines) > LINES_A_CASE * len(expected):
        problems.append(f"{len(lines)} lines are more than {LINES_A_CASE} for each of {len(expected)} cases")
    if problems:
        print("\n".join([*problems, "the compiler said:", found.stderr]))
    else:
        print(f"{len(expected)} cases, {len(lines)} lines")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

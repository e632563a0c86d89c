#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks that what must not compile is refused in one sentence each.

Usage: check_refusals.py FOLDER COMPILER [COMPILER ...] -- [ARGUMENT ...]. Each line of a source in FOLDER with
`// refused: TEXT` must bring each compiler to say TEXT in one error; there must be no other error, and few lines around
each. Exit status 1, with what was found, otherwise.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LINES_A_CASE = 14  # where the types are used and how the compiler came there


def problems_of(expected, said):
    lines = said.splitlines()
    errors = [line for line in lines if re.search(r"\berror:", line)]
    if not expected:
        yield "the source expects nothing"
    for text in expected:
        count = sum(text in error for error in errors)
        if count != expected.count(text):
            yield f"{count} errors, not {expected.count(text)}, say: {text}"
    for error in errors:
        if not any(text in error for text in expected):
            yield f"not expected: {error}"
    if len(lines) > LINES_A_CASE * len(expected):
        yield f"{len(lines)} lines are more than {LINES_A_CASE} for each of {len(expected)} cases"


def check(source, compiler, arguments):
    """Returns whether all is as expected, and says so."""
    expected = re.findall(r"// refused: (.*)$", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    no_limit = "-ferror-limit=0" if "clang" in Path(compiler).name else "-fmax-errors=0"
    command = [compiler, *arguments, no_limit, "-fsyntax-only", str(source)]
    english = dict(os.environ, LC_ALL="C.UTF-8")  # compilers translate "error"
    said = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=english, check=False).stderr
    problems = list(problems_of(expected, said))
    if problems:
        print("\n".join([f"{source.name}, {compiler}:", *problems, "the compiler said:", said]))
    else:
        print(f"{source.name}, {compiler}: {len(expected)} cases, {len(said.splitlines())} lines")
    return not problems


def main(folder, *rest):
    end = rest.index("--")
    compilers, arguments = rest[:end], rest[end + 1 :]
    sources = sorted(Path(folder).glob("*.cpp"))
    if not sources or not compilers:
        print(f"check_refusals: no sources in {folder}, or no compiler")
        return 1
    results = [check(source, compiler, arguments) for source in sources for compiler in compilers]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

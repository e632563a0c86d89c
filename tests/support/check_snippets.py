#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks that the snippets of a page are parts of a file that is compiled.

Usage: check_snippets.py PAGE SOURCE. Each `cpp` block of PAGE must be what stands between two equal `// [name]` markers
of SOURCE, but for the indentation of the whole, and each such part must be on the page. Exit status 1, with a line for
each difference.
"""

import re
import sys
import textwrap
from pathlib import Path


def parts_of(source):
    parts = {}
    for match in re.finditer(r"^ *// \[(\w+)\]\n(.*?)^ *// \[\1\]$", source, flags=re.MULTILINE | re.DOTALL):
        parts[match[1]] = textwrap.dedent(match[2])
    return parts


def blocks_of(page):
    return [match[1] for match in re.finditer(r"^```cpp\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)]


def differences(page, source):
    parts, blocks = parts_of(source), blocks_of(page)
    if not parts or not blocks:
        yield "there are no parts or no blocks to compare"
    for block in blocks:
        if block not in parts.values():
            yield f"the block that begins {block.splitlines()[0]!r} is compiled nowhere as it stands"
    for name, part in parts.items():
        if part not in blocks:
            yield f"part [{name}] is not on the page as it stands"


def main():
    if len(sys.argv) != 3:
        print("usage: check_snippets.py PAGE SOURCE", file=sys.stderr)
        return 2
    found = list(differences(*(Path(name).read_text(encoding="utf-8") for name in sys.argv[1:])))
    for line in found:
        print(f"check_snippets: {sys.argv[1]}: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

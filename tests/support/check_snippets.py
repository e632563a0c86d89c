#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks that the snippets of pages are parts of a file that is compiled.

Usage: check_snippets.py SOURCE[,SOURCE...] PAGE ... Each `cpp` block of a page must be what stands between two equal `// [name]`
markers of a SOURCE, but for the indentation of the whole, and each such part must be on a page. Exit status 1, with a line
for each difference.
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


def differences(sources, pages):
    parts = {(source, name): part for source in sources for name, part in parts_of(source.read_text(encoding="utf-8")).items()}
    shown = set()
    for page in pages:
        blocks = blocks_of(page.read_text(encoding="utf-8"))
        if not blocks:
            yield f"{page} has no block to compare"
        for block in blocks:
            if block not in parts.values():
                yield f"{page}: the block that begins {block.splitlines()[0]!r} is compiled nowhere as it stands"
        shown.update(blocks)
    for (source, name), part in parts.items():
        if part not in shown:
            yield f"{source}: part [{name}] is on no page as it stands"


def main():
    if len(sys.argv) < 3:
        print("usage: check_snippets.py SOURCE PAGE ...", file=sys.stderr)
        return 2
    sources, pages = map(Path, sys.argv[1].split(",")), map(Path, sys.argv[2:])
    found = list(differences(list(sources), list(pages)))
    for line in found:
        print(f"check_snippets: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

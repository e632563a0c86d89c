#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks the labels in public headers' comments: their form and order (docs/style.md), and that each header says which
threads may use what it has.

Usage: check_contracts.py [ROOT]. Prints one line a violation; exit status 1 when there is one.
"""

import re
import sys
from pathlib import Path

LABELS = ("Shapes", "Units", "Sends", "Blocks", "Collective", "Thread-safety", "Owns", "Throws", "Source")
AT_BEGIN = rf"(?:^|(?<=[.)] ))({'|'.join(LABELS)})"
# They declare nothing that a thread could use.
WITHOUT_THREADS = ("core/export.h", "lockstep/data.h", "lockstep/ddp.h", "lockstep/lockstep.h")


def comments_of(lines):
    """Number of the first line, and text, of each /// comment."""
    first, text = 0, []
    for number, line in enumerate([*lines, ""], 1):
        if line.lstrip().startswith("///"):
            first = first if text else number
            text.append(line.lstrip()[3:].strip())
        elif text:
            yield first, text
            text = []


def violations_of_comment(text):
    ranks = [LABELS.index(match[1]) for line in text for match in re.finditer(AT_BEGIN + ":", line)]
    if ranks != sorted(set(ranks)):
        yield f"labels are {', '.join(LABELS[rank] for rank in ranks)}; their order is {', '.join(LABELS)}, each once"
    for line in text:
        for match in re.finditer(r"(?:^|(?<=[.)] ))(Blocks|Collective|Thread-safety)(?=[.;,])", line):
            yield f"'{match[1]}' is a label: write '{match[1]}:' and what it means here"


def violations_of(path, name):
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, text in comments_of(lines):
        for violation in violations_of_comment(text):
            yield f"{name}:{number}: {violation}"
    if not name.endswith(WITHOUT_THREADS) and not any("Thread-safety:" in line for line in lines):
        yield f"{name}: no 'Thread-safety:' says which threads may use this"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    headers = [p for p in sorted((root / "include").rglob("*.h")) if "detail" not in p.parts]
    if not headers:
        print(f"check_contracts: no headers below {root}/include")
        return 1
    found = [v for p in headers for v in violations_of(p, p.relative_to(root).as_posix())]
    print("\n".join(found) if found else f"check_contracts: {len(headers)} headers, all in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

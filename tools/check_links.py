#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks that the links of pages in HTML to other files lead somewhere.

Usage: check_links.py FILE ... Prints one line for each that does not; exit status 1 when there is one.
"""

import functools
import re
import sys
import urllib.parse
from pathlib import Path


@functools.cache
def names_in(path):
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', path.read_text(encoding="utf-8")))


def broken_links(path):
    for link in set(re.findall(r'\b(?:href|src)="([^"]+)"', path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, name = urllib.parse.unquote(link).partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (name and target.suffix == ".html" and name not in names_in(target)):
            yield f"{path.name}: {link} leads nowhere"


def main():
    pages = [Path(name) for name in sys.argv[1:]]
    found = [line for page in pages for line in broken_links(page)]
    print("\n".join(found) if found else f"check_links: {len(pages)} pages, all links lead somewhere")
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main())

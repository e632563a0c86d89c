#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What doxygen reads of a file (docs/Doxyfile): the file with labels and links in doxygen's words, line for line.

Usage: docs_filter.py FILE, in the root of the tree.

Headers: the labels of docs/style.md begin paragraphs of their own, a comment in front of a namespace is about the file,
and members that are deleted or defaulted are documented as that. Pages: headings get names as GitHub gives them, and
links to other pages and headers lead there.
"""

import os
import re
import sys
from pathlib import Path

LABELS = "Shapes|Units|Sends|Blocks|Collective|Thread-safety|Owns|Throws|Source"
LINK = r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)"
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/", "benchmarks/README.md", "examples/resnet/README.md",
         "examples/gpt/README.md")


def with_names_linked(text):
    """Doxygen links names in <code>, not those between backticks."""
    return re.sub(r"`((?:\w+::)*[A-Z]\w*(?:::\w+)*(?:\(\))?)`", r"<code>\1</code>", text)


def filtered_comment(line):
    line = re.sub(rf"(?<![\w`])({LABELS}): ?", r"@label{\1} ", line)
    return with_names_linked(line)


def filtered_header(path, lines):
    include = path.split("include/", 1)[1]
    has_file_comment = any("@file" in line for line in lines)
    before = ""
    for line in lines:
        if re.match(r"\s*///", line):
            yield filtered_comment(line)
        elif line == "#pragma once" and not has_file_comment:
            yield f"{line} /** @file {include} */"
        elif re.search(r"= (delete|default);\s*(//.*)?$", line) and not before.lstrip().startswith("///"):
            about = "Deleted." if "= delete" in line else "As the compiler makes it."
            yield re.sub(r"\s*//.*$", "", line) + f" ///< {about}"
        elif "///<" in line:
            code, _, comment = line.partition("///<")
            yield f"{code}///<{with_names_linked(comment)}"
        else:
            yield line
        before = line


def slug_of(heading):
    """The name that GitHub gives a heading."""
    text = re.sub(r"[`*_]|\]\([^)]*\)|\[", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def heading_name(path, heading, seen):
    if len(heading[1]) == 1:
        return page_name(path)
    slug = slug_of(heading[2])
    seen[slug] = seen.get(slug, -1) + 1  # the second of a name is name-1
    return f"{page_name(path)}--{slug}" + (f"-{seen[slug]}" if seen[slug] else "")


def page_name(path):
    if path == "README.md":
        return "mainpage"
    return "page_" + re.sub(r"\W", "_", path.removesuffix(".md"))


def filtered_link(path, text, target):
    if re.match(r"\w+:", target):
        return f"[{text}]({target})"
    file, _, anchor = target.partition("#")
    file = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
    if file.endswith(".md") and file.startswith(PAGES):
        name = page_name(file)
        return f"[{text}](@ref {name}{'--' + anchor if anchor else ''})"
    if file.startswith("include/"):
        return f"[{text}](@ref {file.removeprefix('include/')})"
    return f"[{text}](files/{file})"


def with_whole_links(lines):
    """Doxygen wants a link on one line: what stands on the next one is moved up, and the number of lines stays."""
    lines = list(lines)
    for i in range(1, len(lines)):
        end = re.match(r"(\s*)([^\[\]]*\]\([^)\s]+\)\S*)\s*(.*)$", lines[i])
        if end and re.search(r"(?<!!)\[[^\[\]]*$", lines[i - 1]):
            lines[i - 1] += " " + end[2]
            lines[i] = end[1] + (end[3] or "<!-- -->")  # a blank line would end the paragraph
    return lines


def filtered_page(path, lines):
    is_code = False
    seen = {}
    for line in with_whole_links(lines):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code:
            heading = re.match(r"(#+) (.*)$", line)
            line = re.sub(LINK, lambda m: filtered_link(path, m[1], m[2]), line)
            if heading:
                line += f" {{#{heading_name(path, heading, seen)}}}"
            else:
                line = with_names_linked(line)
        yield line


def main():
    path = os.path.relpath(sys.argv[1])
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    print("\n".join(filtered_header(path, lines) if path.endswith(".h") else filtered_page(path, lines)))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Counts lines of src/ and include/: how long files and functions are, and which folders include which.

Usage: line_statistics.py [REVISION ...]. Prints a table with one column a revision (default: HEAD).
"""

import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)
# What ends up as one space: comments, texts, characters, and preprocessor lines. A digit's separator is no character.
NO_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:\\\n|[^\n])*',
    re.DOTALL | re.MULTILINE)
SCOPE = re.compile(r'^\s*(?:inline\s+)?namespace\b|^\s*extern\b|\b(?:class|struct|union|enum)\s[^()]*$'
                   r'|\b(?:class|struct|union)\s+\w+\s*(?:final\s*)?:')
# `a_` of `Name() : a_{1} {`, but no `const` of `Name() const {`.
MEMBER = re.compile(r'\)[\w\s]*:(?!:).*(?<!\bconst)(?<!\boverride)(?<!\bnoexcept)[\w>]$', re.DOTALL)
VALUE = re.compile(r'=$|\breturn\b|[(,]$')


def files_of(revision):
    """Path and text of each file of the library."""
    archive = subprocess.run(['git', '-C', str(ROOT), 'archive', revision, 'src', 'include'], check=True,
                             stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read().decode()
                for entry in tar if entry.isfile() and entry.name.endswith(('.h', '.cpp'))}


def kind_of(head):
    """What a brace opens that stands in a namespace or type, by the text before it."""
    head = head.rstrip()
    if SCOPE.search(head):
        return 'scope'
    if MEMBER.search(head):
        return 'member'
    return 'function' if '(' in head and not VALUE.search(head) else 'value'


def functions_of(text):
    """Name and number of lines of each function that has a body; functions within a function are part of it."""
    code = NO_CODE.sub(lambda found: ' ' + '\n' * found[0].count('\n'), text)
    kinds = []  # of each open brace
    start = 0   # of what the next brace belongs to
    begin = 0   # of the function
    for brace in re.finditer(r'[{};]', code):
        head = code[start:brace.start()]
        if brace[0] == '{':
            kinds.append(kind_of(head) if all(kind == 'scope' for kind in kinds) else 'value')
            if kinds[-1] == 'function':
                begin = start + len(head) - len(head.lstrip())
            if kinds[-1] == 'member':
                continue  # the same head goes on behind it
        elif brace[0] == '}' and kinds:
            kind = kinds.pop()
            if kind == 'function':
                name = re.search(r'([~\w:]+|operator\S+)\s*\(', code[begin:])
                yield name[1], code.count('\n', begin, brace.start()) + 1
            if kind == 'member':
                continue
        if 'function' not in kinds:
            start = brace.end()


def folder_of(path):
    """`comm/gloo` of src/comm/gloo/transport.h and of include/lockstep/comm/gloo/options.h."""
    parts = PurePosixPath(path).parent.parts
    return '/'.join(part for part in parts if part not in ('src', 'include', 'lockstep'))


def figures_of(revision):
    files = files_of(revision)
    lines = {path: text.count('\n') for path, text in files.items()}
    functions = [(count, name, path) for path, text in files.items() for name, count in functions_of(text)]
    dependencies = Counter()
    includes = 0
    for path, text in files.items():
        for name in INCLUDE.findall(text):
            includes += 1
            if 'src/' + name in files or 'include/' + name in files:
                dependencies[folder_of(path), folder_of(name)] += 1
    between = {pair for pair in dependencies if pair[0] != pair[1]}
    folders = Counter(str(PurePosixPath(path).parent) for path in files)
    longest_file = max(lines, key=lines.get)
    longest = max(functions)
    return {
        'files': len(files),
        'lines': sum(lines.values()),
        'mean lines a file': f'{sum(lines.values()) / len(files):.1f}',
        'longest file': f'{lines[longest_file]} (`{longest_file}`)',
        'functions with a body': len(functions),
        'mean lines a function': f'{sum(count for count, *_ in functions) / len(functions):.1f}',
        'longest function': f'{longest[0]} (`{longest[1]}` in `{longest[2]}`)',
        'functions of more than 40 lines': sum(count > 40 for count, *_ in functions),
        'includes a file': f'{includes / len(files):.2f}',
        'files in the largest folder': f'{max(folders.values())} (`{folders.most_common(1)[0][0]}`)',
        'folders': len({folder_of(path) for path in files}),
        'dependencies between folders': len(between),
        'pairs of folders that include each other': sum((b, a) in between for a, b in between) // 2,
    }


def main():
    revisions = sys.argv[1:] or ['HEAD']
    columns = [figures_of(revision) for revision in revisions]
    print('| src and include | ' + ' | '.join(revisions) + ' |')
    print('|---' * (len(columns) + 1) + '|')
    for row in columns[0]:
        print(f'| {row} | ' + ' | '.join(str(column[row]) for column in columns) + ' |')


if __name__ == '__main__':
    main()

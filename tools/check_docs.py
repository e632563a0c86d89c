#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checks that what pages name exists: files, folders, types and functions.

Usage: check_docs.py [ROOT]. Looks at code in `backticks` and at paths in diagrams. A path whose first part is a folder of
this tree must lead to a file or folder; a name in CamelCase or with_underscores must occur in a source. Prints one line
for each that does not; exit status 1 when there is one.
"""

import re
import sys
from pathlib import Path

PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/*/README.md", "docs/*.md", "docs/adr/*.md")
SOURCES = ("src", "include", "tests", "examples", "benchmarks", "tools", "cmake", ".ci")
SUFFIXES = {".h", ".cpp", ".cmake", ".py", ".sh", ".txt", ".env", ".json", ".in", ""}
# Where a path may begin: a page says `comm/group/process_group` for src/comm/group/process_group.cpp.
BEGINNINGS = ("", "src", "src/*", "include", "include/lockstep", "docs", "examples", "benchmarks")
# What belongs to others and occurs in no source here.
FOREIGN = {
    # PyTorch
    "DataParallel", "RandomResizedCrop", "ToTensor", "decode_image", "apply_exif_orientation", "broadcast_buffers",
    "divide_by_initial_world_size", "register_comm_hook", "use_reentrant", "_set_params_and_buffers_to_ignore_for_model",
    "gradient_as_bucket_view", "set_to_none", "upsample_bilinear2d", "_pytree", "recordStream", "TorchConfig",
    # Open MPI; style.md
    "orte_abort_on_non_zero_status", "PascalCase", "snake_case", "try_x",
    # Pillow, torchcomms, GCC, libjpeg, CUDA, Python
    "ImageOps", "exif_transpose", "TorchComm", "TorchCommBackend", "vector_size", "target_clones", "cuCtxRecordEvent",
}
# What is no more, on pages that tell of it; and a unit that looks like a path.
PAST = {
    "examples/resnet/README.md": {"samples/s"},
    "docs/training_toolbox.md": {"samples/s"},
    "docs/adr/0016-own-share-stays.md": {"own_share"},
    "docs/architecture.md": {"src/comm/nccl_communicator.cpp", "src/data/resize_axis.cpp"},
}


def code_of(page: str):
    """Yields (line number, text, whether it is a diagram) for code in backticks and for lines of blocks without a language."""
    prose, language = [], None
    for number, line in enumerate(page.splitlines(), 1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence:
            language = None if language is not None else fence[1]
        elif language == "":
            yield number, line, True
        prose.append("" if fence or language is not None else line)
    text = "\n".join(prose)
    for code in re.finditer(r"`((?:[^`\n]|\n(?!\n))+)`", text):
        yield text.count("\n", 0, code.start()) + 1, code[1], False


class Tree:
    def __init__(self, root: Path):
        self.root = root
        self.words = set()
        for folder in SOURCES:
            for path in (root / folder).rglob("*"):
                self.words.add(path.stem)
                if path.is_file() and path.suffix in SUFFIXES and path.name != "check_docs.py":
                    self.words.update(re.findall(r"\w+", path.read_text(encoding="utf-8", errors="ignore")))
        self.words.update(re.findall(r"\w+", (root / "CMakeLists.txt").read_text(encoding="utf-8")))
        folders = [path for top in BEGINNINGS for path in root.glob(f"{top}/*" if top else "*") if path.is_dir()]
        self.folders = {path.name for path in folders} - {"build"}

    def has_path(self, path: str) -> bool:
        if path.split("/")[0] not in self.folders or re.search(r"\b[A-Z]+(?=[/_]|$)", path):
            return True  # not ours, or with a word in capitals for what the reader fills in
        path = path.rstrip("/.")
        tails = (path, *(path + suffix for suffix in (".h", ".cpp", ".py", "_*.h")))
        return any(True for top in BEGINNINGS for tail in tails for _ in self.root.glob(f"{top}/{tail}" if top else tail))

    def has_name(self, name: str) -> bool:
        return name in self.words or name in FOREIGN


def names_in(text: str):
    """CamelCase and names_with_underscores that are no parts of paths, variables of the environment or options."""
    for name in re.findall(r"(?<![\w./$-])[A-Za-z_]\w*(?![\w/]|\.\w)", text):
        if re.fullmatch(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)*|[a-z][a-z0-9]*(?:_[a-z0-9]+)+", name):
            yield name


def faults_of(name: str, page: str, tree: Tree):
    for number, text, is_diagram in code_of(page):
        for path in re.findall(r"(?<![\w./<$:{-])(?:\./)?(\.?[\w-][\w.-]*(?:/[\w.*-]+)+/?)", text):
            if not tree.has_path(path) and path not in PAST.get(name, ()):
                yield f"{name}:{number}: there is no file or folder {path}"
        if not is_diagram:
            unknown = (word for word in names_in(text) if not tree.has_name(word) and word not in PAST.get(name, ()))
            yield from (f"{name}:{number}: {word} occurs in no source" for word in unknown)


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    pages = [page for pattern in PAGES for page in sorted(root.glob(pattern))]
    tree = Tree(root)
    faults = [fault for page in pages for fault in faults_of(page.relative_to(root).as_posix(), page.read_text(), tree)]
    print("\n".join(faults) if faults else f"check_docs: {len(pages)} pages name what exists")
    return 1 if faults or not pages else 0


if __name__ == "__main__":
    sys.exit(main())

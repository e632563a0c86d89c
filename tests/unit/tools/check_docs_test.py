#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""tools/check_docs.py: what it finds in a small tree, and what it leaves alone."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CHECK = Path(__file__).resolve().parents[3] / "tools" / "check_docs.py"
SOURCES = {
    "CMakeLists.txt": "project(house)\n",
    "src/comm/group/group_core.h": "class GroupCore { void make_group(); };\n",
    "src/comm/mpi/transport.cpp": "\n",
    "tools/lint.sh": "check_names\n",
    ".ci/env": "\n",
}


def check(page: str, name: str = "docs/page.md"):
    """Exit status and output of the check over a tree with this page."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {**SOURCES, name: page}.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        run = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)
        return run.returncode, run.stdout.strip()


class CheckDocs(unittest.TestCase):
    def expect_accepted(self, page):
        self.assertEqual(check(page), (0, "check_docs: 1 pages name what exists"))

    def expect_fault(self, page, fault):
        self.assertEqual(check(page), (1, fault))

    def test_files_may_be_named_from_their_layer_and_without_suffix(self):
        self.expect_accepted("`src/comm/group/group_core.h`, `comm/group/group_core`, `mpi/transport`, `tools/lint.sh`\n")

    def test_a_path_that_leads_nowhere_is_a_fault(self):
        self.expect_fault("a\n\n`comm/group/core`\n", "docs/page.md:3: there is no file or folder comm/group/core")

    def test_a_path_may_begin_at_the_working_directory(self):
        self.expect_accepted("`./tools/lint.sh`, `../other/tools`\n")
        self.expect_fault("```\n./tools/lint.py format\n```\n", "docs/page.md:2: there is no file or folder tools/lint.py")

    def test_folders_with_a_dot_before_them_count(self):
        self.expect_fault("`.ci/run`\n", "docs/page.md:1: there is no file or folder .ci/run")

    def test_the_pages_of_the_examples_count(self):
        self.assertEqual(check("`tools/train.py`\n", "examples/net/README.md"),
                         (1, "examples/net/README.md:1: there is no file or folder tools/train.py"))

    def test_paths_in_diagrams_count(self):
        self.expect_fault("```\n mpi/transport -> mpi/channels\n```\n",
                          "docs/page.md:2: there is no file or folder mpi/channels")

    def test_blocks_with_a_language_are_left_to_the_compiler(self):
        self.expect_accepted("```cpp\nmpi/channels; Unknown_thing `OtherThing`\n```\n")

    def test_types_and_functions_that_occur_in_no_source_are_faults(self):
        self.expect_accepted("`GroupCore::make_group(part)`\n")
        self.expect_fault("`GroupKernel`\n", "docs/page.md:1: GroupKernel occurs in no source")
        self.expect_fault("`make_part()`\n", "docs/page.md:1: make_part occurs in no source")

    def test_code_may_go_on_in_the_next_line(self):
        self.expect_fault("of `GroupCore\n+ make_part` and `GroupCore`\n", "docs/page.md:1: make_part occurs in no source")

    def test_paths_of_the_system_and_words_to_fill_in_are_left_alone(self):
        self.expect_accepted("`/dev/shm`, `build/release`, `src/FOLDER/UNIT.cpp`, `--some/option`, `OMPI_RANK`\n")

    def test_a_tree_without_pages_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "CMakeLists.txt").write_text("")
            run = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)
            self.assertEqual(run.returncode, 1)


if __name__ == "__main__":
    unittest.main()

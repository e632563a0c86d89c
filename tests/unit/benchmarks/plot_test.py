#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""benchmarks/plot: which records it shows, what it says of bad ones, and what every picture must have."""

import json
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PLOT = ROOT / "benchmarks" / "plot"
IMAGES = ROOT / "docs" / "images"
SVG = "{http://www.w3.org/2000/svg}"
ROUNDS = 5


def record(benchmark, raw, **fields):
    return {
        "benchmark": benchmark,
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "0123456789",
        "dirty": False,
        "machine": {"cpu": "a processor", "cores": 2},
        "command": f"benchmarks/run.sh {benchmark}",
        "raw": raw,
        **fields,
    }


def step_record(batch, lockstep=10.0, sides=("lockstep_alone", "plain_mpi", "pytorch_ddp"), rounds=ROUNDS, **fields):
    raw = {side: [[20.0, 21.0]] * rounds for side in sides}
    raw["lockstep"] = [[lockstep, lockstep]] * rounds
    return record("ddp_step", raw, arch="resnet18", ranks=2, batch=batch, **fields)


def all_reduce_record():
    sizes = [1 << shift for shift in range(10, 29, 2)]
    sides = ("lockstep", "ordinary", "mpi", "gloo", "limit")
    return record("all_reduce", {side: {str(size): [size / 1e3] * ROUNDS for size in sizes} for side in sides}, ranks=2)


def loader_record():
    start = [{"samples_per_second": 100.0 * (workers + 1), "workers": workers} for workers in range(3)]
    raw = {workload: {side: [start] * ROUNDS for side in ("lockstep", "pytorch")} for workload in ("fmnist", "synthetic", "jpeg")}
    raw["fmnist"]["pytorch_batched"] = raw["jpeg"]["pytorch_io"] = [start] * ROUNDS
    return record("data_loader", raw, batch=64, kind="process")


class Plot(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.records, self.images = Path(folder.name, "records"), Path(folder.name, "images")
        self.records.mkdir()
        self.write("ddp_step.jsonl", step_record(32), step_record(4))
        self.write("collectives.jsonl", all_reduce_record())
        self.write("data_loader.jsonl", loader_record())

    def write(self, name, *records):
        (self.records / name).write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")

    def plot(self, *arguments):
        command = [sys.executable, str(PLOT), str(self.records), str(self.images), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def drawn(self):
        result = self.plot()
        self.assertEqual(result.returncode, 0, result.stderr)
        return (self.images / "step_time.svg").read_text(encoding="utf-8")

    def assert_refused(self, *texts):
        result = self.plot()
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        for text in texts:
            self.assertIn(text, result.stderr)
        self.assertFalse(self.images.exists(), "it drew nevertheless")

    def test_check_passes_after_drawing_and_names_what_a_new_record_changes(self):
        self.assertEqual(self.plot("--check").returncode, 1)
        self.assertFalse(self.images.exists(), "--check wrote")
        self.drawn()
        self.assertEqual(self.plot("--check").returncode, 0)
        self.write("ddp_step.jsonl", step_record(32), step_record(4), step_record(4, lockstep=12.0))
        result = self.plot("--check")
        self.assertEqual(result.returncode, 1)
        self.assertIn("step_time.svg", result.stdout)
        self.assertNotIn("all_reduce.svg", result.stdout)

    def test_the_newest_is_so_by_its_date_in_any_time_zone(self):
        late, early = "2026-02-01T00:30:00+00:00", "2026-02-01T01:00:00+02:00"
        self.write("ddp_step.jsonl", step_record(32), step_record(4, 12.0, date=late), step_record(4, 14.0, date=early))
        self.assertIn("12.0 ms", self.drawn())

    def test_a_trial_replaces_nothing(self):
        trials = [
            step_record(4, 14.0, sides=("lockstep_alone", "plain_mpi")),
            step_record(4, 14.0, rounds=1),
            step_record(4, 14.0, accumulate=4),
            step_record(4, 14.0, command="benchmarks/run.sh ddp_step --bucket-cap-mib=1"),
        ]
        self.write("ddp_step.jsonl", step_record(32), step_record(4, 12.0), *trials)
        self.assertNotIn("14.0 ms", self.drawn())

    def test_a_record_with_changes_is_marked(self):
        self.write("ddp_step.jsonl", step_record(32), step_record(4, dirty=True))
        self.assertIn("commit 0123456 with changes", self.drawn())

    def test_a_line_that_is_no_record_is_named(self):
        path = self.records / "ddp_step.jsonl"
        path.write_text(path.read_text(encoding="utf-8") + '{"benchmark": "ddp_st', encoding="utf-8")
        self.assert_refused("ddp_step.jsonl:3", "this is no record")

    def test_a_field_that_lacks_or_is_odd_is_named(self):
        for field, value, text in [
            ("raw", None, "'raw'"),
            ("dirty", "no", "'dirty'"),
            ("machine", {}, "'cpu'"),
            ("date", "yesterday", "'date'"),
            ("date", "2026-01-01T00:00:00", "time zone"),
        ]:
            with self.subTest(field=field, value=value):
                self.write("ddp_step.jsonl", step_record(32), {**step_record(4), field: value})
                self.assert_refused("ddp_step.jsonl:2", text)

    def test_figures_must_be_positive_numbers(self):
        for value in (0.0, -1.0, float("nan"), float("inf"), "10", None, True):
            with self.subTest(value=value):
                self.write("ddp_step.jsonl", step_record(32), step_record(4, lockstep=value))
                self.assert_refused("ddp_step.jsonl:2")

    def test_a_kind_without_records_is_named_with_the_command_that_makes_one(self):
        self.write("ddp_step.jsonl", step_record(32))
        self.assert_refused("no record", "batch 4", "benchmarks/run.sh ddp_step --batch 4")

    def test_the_newest_of_only_incomplete_records_says_what_it_lacks(self):
        self.write("ddp_step.jsonl", step_record(32), step_record(4, sides=("lockstep_alone", "plain_mpi")))
        self.assert_refused("ddp_step.jsonl:2", "lacks pytorch_ddp")

    def test_a_file_that_is_not_there_is_named(self):
        (self.records / "collectives.jsonl").unlink()
        self.assert_refused("collectives.jsonl", "cannot be read")


class Pictures(unittest.TestCase):
    """All of docs/images, those made by hand as well."""

    def test_each_has_a_ground_a_title_and_a_description_and_loads_nothing(self):
        pictures = sorted(IMAGES.glob("*.svg"))
        self.assertTrue(pictures)
        for picture in pictures:
            with self.subTest(picture=picture.name):
                root = ElementTree.parse(picture).getroot()
                named = [root.find(f"{SVG}{name}") for name in ("title", "desc")]
                self.assertTrue(all(part is not None and part.text for part in named))
                self.assertEqual(root.get("aria-labelledby"), " ".join(part.get("id") for part in named))
                ground = root.find(f"{SVG}rect")
                self.assertGreaterEqual(float(ground.get("width")), float(root.get("width")) - 1)
                self.assertGreaterEqual(float(ground.get("height")), float(root.get("height")) - 1)
                text = picture.read_text(encoding="utf-8").replace(SVG.strip("{}"), "")
                self.assertIsNone(re.search(r"<script|<image|<foreignObject|href|https?:|@import|\son\w+=", text))

    def test_paths_name_stages_and_no_files(self):
        for name in ("gradient_path.svg", "sample_path.svg"):
            self.assertIsNone(re.search(r"\w+_\w+\b(?!\")|\.(h|cpp)\b", self.text_of(name)))

    def text_of(self, name):
        return " ".join(ElementTree.parse(IMAGES / name).getroot().itertext())

    def test_pages_show_pictures_that_are_there_and_all_of_them(self):
        shown = set()
        for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
            for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
                path = (page.parent / target).resolve()
                self.assertTrue(path.is_file(), f"{page.name} shows {target}, which is not there")
                shown.add(path)
        self.assertEqual(shown, {*IMAGES.glob("*.svg"), *IMAGES.glob("*.png")})


if __name__ == "__main__":
    unittest.main()

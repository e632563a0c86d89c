#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Tests of lockstep-report and tools/run_log.py on files made here, and on those of a real run where --snippets names the
program with the pages' snippets.

Usage: report_test.py --program PROGRAM [--snippets PROGRAM] [--mpirun SCRIPT] [unittest's arguments]
"""

import argparse
import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zlib
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import run_log  # noqa: E402

PROGRAM = SNIPPETS = MPIRUN = None
VOID = {"meta", "line", "path", "rect", "circle", "polyline", "br"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects text, tables by headings, and attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.text, self.tags, self.tables, self.attributes = [], [], [], [], []
        self.style = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID, tag
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *head):
        """The rows of the first table whose head begins like this."""
        for table in self.tables:
            if table[0][: len(head)] == list(head):
                return table[1:]
        raise AssertionError(f"no table {head}; there are {[t[0] for t in self.tables]}")

    def all_text(self):
        return " ".join(self.text)


def line(step, rank=0, t=None, **values):
    return json.dumps({"t": 1764457387.0 + step if t is None else t, "step": step, "rank": rank, **values}) + "\n"


def manifest_line(**values):
    text = json.dumps(values, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


class ReportTest(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name) / "run"
        self.folder.mkdir()
        self.addCleanup(self.temporary.cleanup)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def run_program(self, *arguments):
        return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60)

    def page(self):
        done = self.run_program(self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, f"{self.folder}/report.html\n")
        text = (self.folder / "report.html").read_text(encoding="utf-8")
        page = Page(text)
        # Nothing that could run or be fetched.
        self.assertFalse({"script", "iframe", "object", "img", "a", "form"} & set(page.tags))
        self.assertFalse([name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src", "style")])
        self.assertNotIn("url(", page.style)
        return page

    def failure(self, *arguments):
        done = self.run_program(*arguments)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.returncode, done.stderr

    def test_curves_have_the_values_of_all_ranks(self):
        losses = [[1 / (step + 1) + rank for step in range(0, 50)] for rank in range(2)]
        for rank in range(2):
            self.write(f"rank{rank}.jsonl", "".join(line(s, rank, loss=losses[rank][s]) for s in range(50)))
        page = self.page()
        rows = page.table("step", "rank 0", "rank 1")
        self.assertEqual([[float(cell) for cell in row] for row in rows],
                         [[step, losses[0][step], losses[1][step]] for step in range(50)])
        lines = [value for name, value in page.attributes if name == "points"]
        heights = [[float(pair.split(",")[1]) for pair in points.split()] for points in lines[:2]]
        # Both fall, and that of rank 1 is above, as far as the picture's tenths show.
        for rank in range(2):
            self.assertEqual(len(heights[rank]), 50)
            self.assertEqual(heights[rank], sorted(heights[rank]))
        self.assertTrue(all(a > b for a, b in zip(*heights)))
        self.assertIn("rank 1: 1.02", page.all_text().replace("  ", " "))  # the last value of rank 1

    def test_a_resumed_run_replaces_what_it_did_again(self):
        self.write("rank0.jsonl", line(1, x=1) + line(2, x=2) + line(3, x=3) + line(2, t=1764457400, x=20))
        rows = self.page().table("step", "rank 0")
        self.assertEqual(rows, [["1", "1"], ["2", "20"]])

    def test_rotated_logs_come_first(self):
        self.write("rank0.jsonl", line(4, x=4))
        for number, step in ((1, 3), (2, 2), (10, 1)):
            self.write(f"rank0.jsonl.{number}", line(step, x=step))
        self.write("rank0.jsonl.old", line(1, x=99))  # is none
        self.assertEqual(self.page().table("step", "rank 0"), [[str(i), str(i)] for i in range(1, 5)])
        self.assertEqual([x["x"] for x in run_log.read_run(self.folder)], [1, 2, 3, 4])

    def test_long_runs_are_thinned_but_keep_their_extremes(self):
        values = [math.sin(step / 1000) for step in range(150_000)]
        values[77_777] = 50.0
        self.write("rank0.jsonl", "".join(line(s, x=v) for s, v in enumerate(values)))
        rows = self.page().table("step", "rank 0")
        self.assertLess(len(rows), 400)
        self.assertIn(["77777", "50"], rows)
        self.assertEqual(rows[-1][0], "149999")
        self.assertLess((self.folder / "report.html").stat().st_size, 200_000)

    def test_what_is_no_number_is_a_mark(self):
        self.write("rank0.jsonl", line(1, x=1) + line(2, x="NaN") + line(3, x="Infinity") + line(4, x=2))
        page = self.page()
        self.assertEqual(page.table("step", "rank 0"), [["1", "1"], ["2", "NaN"], ["3", "∞"], ["4", "2"]])
        self.assertEqual([v for n, v in page.attributes if n == "class"].count("odd"), 2)

    def test_torn_and_strange_lines_are_counted(self):
        self.write("rank0.jsonl", line(1, x=1) + '{"t":1,"st' + line(2, x=2) + "[1]\n" + '{"step":1}\n' + "[" * 100_000 + "\n" +
                   "x" * (2 << 20) + "\n\n" + line(3, x=3) + line(4, x=4)[:-5])
        page = self.page()
        self.assertEqual(page.table("file"), [["rank0.jsonl", "2", "6"]])
        self.assertEqual(page.table("step", "rank 0"), [["1", "1"], ["3", "3"]])
        self.assertEqual([x["step"] for x in run_log.read_run(self.folder)], [1, 3])

    def test_a_whole_last_line_without_its_end_counts(self):
        self.write("rank0.jsonl", line(1, x=1) + line(2, x=2).rstrip("\n"))
        self.assertEqual(len(self.page().table("step", "rank 0")), 2)

    def test_empty_files_make_a_page(self):
        for name in ("rank0.jsonl", "a.prom", "checkpoints/MANIFEST"):
            self.write(name, "")
        text = self.page().all_text()
        for part in ("no values yet", "No checkpoint yet", "No values"):
            self.assertIn(part, text)

    def test_lost_lines_are_told(self):
        self.write("rank0.jsonl", line(1, x=1) + '{"time":"2026","lockstep":"12 lines were lost here: no <room>"}\n')
        page = self.page()
        self.assertIn("12 lines were lost here: no <room>", page.all_text())
        self.assertEqual(page.table("file"), [["rank0.jsonl", "2", "0"]])

    def test_two_logs_of_one_rank_are_told(self):
        self.write("first/rank0.jsonl", line(1, x=1))
        self.write("second/rank0.jsonl", line(1, x=2) + line(2, x=3))
        self.assertEqual(self.page().all_text().count("Rank 0 has lines in 'first/rank0' and in 'second/rank0'"), 1)

    def test_a_rotated_log_is_no_other_log(self):
        self.write("rank0.jsonl.1", line(1, x=1))
        self.write("rank0.jsonl", line(2, x=2))
        self.assertNotIn("has lines in", self.page().all_text())

    def test_files_beyond_the_limit_are_told(self):
        self.write("rank0.jsonl", line(1, x=1))
        for number in range(100_000):
            self.write(f"many/{number}", "")
        self.assertEqual(self.page().all_text().count("more than 100000 files and folders"), 1)

    def test_a_folder_that_cannot_be_read_is_told(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to run the program as somebody who may not read a folder")
        program = Path(self.temporary.name) / "report"
        shutil.copy(PROGRAM, program)  # where anybody may run it
        for folder in (Path(self.temporary.name), self.folder):
            folder.chmod(0o755)
        self.write("rank0.jsonl", line(1, x=1))
        (self.folder / "secret").mkdir(mode=0o700)
        done = subprocess.run([program, self.folder, "-o", "-"], capture_output=True, text=True, timeout=60, user=65534, group=65534,
                              extra_groups=[])
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("secret' was left out, since it cannot be read", Page(done.stdout).all_text())

    def test_everything_of_the_files_is_text(self):
        evil = "</svg><script>alert('1')</script>\"&\u202e\x1b"
        shown = "</svg><script>alert('1')</script>\"&\ufffd\ufffd"
        self.write("rank0.jsonl", line(1, **{evil: 1.5, "loader/" + evil: evil, "note": evil, "a/loss": 1,
                                             "loader/seconds": 1, "loader/bottleneck": evil, "ddp/steps": 1}) +
                   line(2, **{evil: 2, "loader <b>/samples": 3, "loader <b>/seconds": 3}) +
                   json.dumps({"time": "x", "lockstep": evil}) + "\n")
        self.write("<b>.prom", b'<i>{a="<s>}\xff"} <u>\n')
        self.write("<b>/MANIFEST", manifest_line(generation=1, step=2, world_size=1, metric=evil, failure=evil, files={}))
        page = self.page()  # checks that there is no script
        self.assertIn(shown, page.all_text())
        self.assertIn(("aria-label", shown), page.attributes)
        self.assertFalse({"b", "i", "s", "u"} & set(page.tags) - {"b"})
        self.assertEqual(page.table("name", "labels"), [["<i>", 'a="<s>}\ufffd"', "<u>"]])
        self.assertEqual(page.table("generation")[0][3], shown)

    def test_statistics_have_their_sections(self):
        log = ""
        for i in range(1, 5):
            log += line(10 * i, **{"ddp/steps": 10 * i, "ddp/forward_seconds": 0.1 * i, "ddp/backward_seconds": 0.2 * i,
                                   "ddp/communication_seconds": 0.15 * i, "ddp/exposed_seconds": 0.05 * i})
            log += line(10 * i, **{"loader/batches": 10 * i, "loader/samples": 80 * i, "loader/seconds": 0.5 * i,
                                   "loader/stall_seconds": 0.1 * i, "loader/restarts": 0, "loader/lost_batches": 0,
                                   "loader/bottleneck": "storage: slow"})
            log += line(10 * i, **{"checkpoints/saves": i, "checkpoints/failures": 0, "checkpoints/bytes": 2048 * i,
                                   "checkpoints/stall_seconds": 0.002 * i, "checkpoints/writing_seconds": 0.03 * i})
        self.write("rank0.jsonl", log)
        page = self.page()
        self.assertEqual(page.table("rank", "forward"), [["rank 0", "10 ms", "20 ms", "5 ms", "10 ms", "5 ms", "50 ms"]])
        self.assertEqual(page.table("loader", "batches"),
                         [["rank 0", "40", "320", "0:02", "0.4 s", "20 %", "0", "0", "storage: slow"]])
        self.assertEqual(page.table("statistics"), [["checkpoints", "rank 0", "4", "0", "8 KiB", "2 ms", "30 ms"]])
        # 10 steps and 80 samples each 10 s.
        charts = re.findall(r"<figcaption>(.*?)</figcaption>.*?<b>(.*?)</b>", (self.folder / "report.html").read_text(), re.DOTALL)
        self.assertIn(("Steps a second", "1"), charts)
        self.assertIn(("Samples a second: loader", "8"), charts)
        self.assertIn(("Share of the time without data: loader", "0.2"), charts)
        self.assertIn(("Milliseconds a step, rank 0", "10 ms"), charts)
        self.assertFalse([title for title, _ in charts if title.startswith(("ddp/", "loader/", "checkpoints/"))])

    def test_sums_that_begin_anew_go_on(self):
        rows = [(10, 5), (20, 9), (30, 2)]  # resumed after step 20
        self.write("rank0.jsonl", "".join(line(s, **{"loader/seconds": v, "loader/samples": v}) for s, v in rows))
        self.assertEqual(self.page().table("loader", "batches")[0][2], "11")

    def test_checkpoints_are_those_of_the_manifest(self):
        good = {"run": "a", "generation": 1, "step": 100, "world_size": 2, "metric": "0.5", "metric_bits": 1,
                "files": {"a": {"bytes": 1024, "xxh3": "x"}, "b": {"bytes": 1024, "xxh3": "x"}}}
        self.write("checkpoints/MANIFEST", manifest_line(**good) + manifest_line(**{**good, "generation": 2, "step": 200}) +
                   manifest_line(run="a", generation=3, step=300, world_size=2, failure="no room", files={}) +
                   "00000000 {}\n" + manifest_line(**good)[:-3])
        self.write("checkpoints/gen-000002/a", "x")
        self.write("checkpoints/gen-000002/x.jsonl", line(1, x=1))  # not looked at
        page = self.page()
        self.assertEqual(page.table("generation"),
                         [["1", "100", "2", "0.5", "2 KiB", "2", "removed"],
                          ["2", "200", "2", "0.5", "2 KiB", "2", "is there"],
                          ["3", "300", "2", "", "", "0", "failed: no room"]])
        self.assertEqual(page.table("file"), [["checkpoints/MANIFEST", "3", "2"]])

    def test_prometheus_files_are_a_table(self):
        self.write("a.prom", '# TYPE x gauge\nx{rank="0",job="a}\\"b"} 0.5\ny 2 1700\nz\nx{rank="0 1\n')
        page = self.page()
        self.assertEqual(page.table("name", "labels"), [["x", 'rank="0",job="a}\\"b"', "0.5"], ["y", "", "2"]])
        self.assertEqual(page.table("file"), [["a.prom", "2", "2"]])

    def test_numbers_of_any_size_fit(self):
        self.write("rank0.jsonl", line(0, x=1e308, y=5e-324, z=0) + line(1, x=-1e308, y=5e-324, z=0) +
                   '{"t":1e400,"step":3,"rank":0,"x":1}\n{"t":-1e300,"step":99999999999999999999999,"rank":0,"x":1}\n')
        page = self.page()
        self.assertFalse([v for n, v in page.attributes if n in ("points", "y", "x") and ("nan" in v or "inf" in v)])

    def test_many_names_and_ranks_are_bounded(self):
        self.write("rank0.jsonl", line(1, **{f"n{i}": i for i in range(3000)}))
        self.write("all.jsonl", "".join(line(1, rank, n1=rank) for rank in range(100)))
        page = self.page()
        self.assertIn("2000 values of further names were left out", page.all_text())
        self.assertEqual(page.tags.count("figure"), 200)

    def test_mistakes_are_one_line(self):
        self.assertEqual(self.failure(), (2, "lockstep-report: there is no folder of a run (--help lists the options)\n"))
        self.assertEqual(self.failure("--what")[0], 2)
        self.assertEqual(self.failure("a", "b")[0], 2)
        self.assertEqual(self.failure("a", "-o")[0], 2)
        status, text = self.failure(self.folder / "none")
        self.assertEqual((status, text), (1, f"lockstep-report: there is no folder '{self.folder}/none'\n"))
        self.write("x.txt", "x")
        status, text = self.failure(self.folder)
        self.assertEqual(status, 1)
        self.assertIn(f"the folder '{self.folder}' and the folders in it have no run log (*.jsonl)", text)
        self.assertIn("is no folder", self.failure(self.folder / "x.txt")[1])
        self.write("rank0.jsonl", line(1, x=1))
        status, text = self.failure(self.folder, "-o", self.folder / "none" / "x.html")
        self.assertEqual(status, 1)
        self.assertIn("cannot be written: No such file or directory", text)

    def test_output_goes_where_it_is_told(self):
        self.write("rank0.jsonl", line(1, x=1))
        done = self.run_program(self.folder, "-o", "-")
        Page(done.stdout)
        self.run_program("-o", self.folder / "x.html", self.folder)
        self.assertEqual((self.folder / "x.html").read_text(encoding="utf-8"), done.stdout)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["rank0.jsonl", "x.html"])
        self.assertIn("Usage: lockstep-report RUN", self.run_program("--help").stdout)
        self.assertRegex(self.run_program("--version").stdout, r"^\d+\.\d+\.\d+\n$")


class RunLogReaderTest(unittest.TestCase):
    def test_numbers_come_back(self):
        self.assertEqual(run_log.parse_line('{"t":1,"step":2,"rank":0,"a":"Infinity","b":"x"}'),
                         {"t": 1, "step": 2, "rank": 0, "a": math.inf, "b": "x"})
        self.assertTrue(math.isnan(run_log.parse_line('{"t":1,"step":2,"rank":0,"a":"NaN"}')["a"]))
        self.assertIsNone(run_log.parse_line("[" * 100_000))

    def test_the_program_writes_csv(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "a.jsonl").write_text(line(1, 2, t=5, x=0.5, note="a,b"))
            script = [sys.executable, ROOT / "tools/run_log.py"]
            done = subprocess.run([*script, folder], capture_output=True, text=True, timeout=60, check=True)
            self.assertEqual(list(csv.reader(done.stdout.splitlines()))[1:], [["2", "1", "5", "x", "0.5"], ["2", "1", "5", "note", "a,b"]])
            self.assertEqual(subprocess.run(script, capture_output=True, timeout=60).returncode, 2)
            Path(folder, "a.jsonl").unlink()
            self.assertEqual(subprocess.run([*script, folder], capture_output=True, timeout=60).returncode, 1)


class RealRunTest(unittest.TestCase):
    """The run that the page's snippet trains, in a browser where there is one."""

    @classmethod
    def setUpClass(cls):
        if SNIPPETS is None:
            raise unittest.SkipTest("--snippets names no program")
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.folder = Path(cls.temporary.name)
        ranks = [MPIRUN, "2"] if MPIRUN else []
        subprocess.run([*ranks, SNIPPETS, "--gtest_filter=*TrainingLog*"], check=True, timeout=120, stdout=subprocess.DEVNULL,
                       env={**os.environ, "LOCKSTEP_SNIPPET_FOLDER": str(cls.folder)})
        subprocess.run([PROGRAM, cls.folder / "run"], check=True, timeout=60, stdout=subprocess.DEVNULL)
        cls.file = cls.folder / "run/report.html"

    def test_the_page_has_what_the_run_logged(self):
        page = Page(self.file.read_text(encoding="utf-8"))
        lines = list(run_log.read_run(self.folder / "run"))
        ranks = 2 if MPIRUN else 1
        losses = {}
        for x in lines:
            if "train/loss" in x:
                losses.setdefault(x["step"], []).append(x["train/loss"])
        self.assertGreater(len(losses), 20)
        for values in losses.values():  # over all ranks: the same on each
            self.assertEqual(values, values[:1] * ranks)
        rows = [[step, *values] for step, values in losses.items()]
        head = ["step", *(f"rank {rank}" for rank in range(ranks))]
        self.assertIn(rows, [[[float(cell) for cell in row] for row in table[1:]] for table in page.tables if table[0] == head])
        for table in (page.table("loader", "batches"), page.table("statistics")):
            self.assertEqual(len(table), ranks)
        if MPIRUN:  # one rank has nothing to average
            self.assertEqual(len(page.table("rank", "forward")), ranks)
        self.assertEqual(page.table("generation")[-1][-1], "is there")
        self.assertTrue(page.table("name", "labels"))
        self.assertEqual([row[2] for row in page.table("file")], ["0"] * (2 * ranks + 1))

    def test_a_browser_shows_it_in_light_and_dark(self):
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            self.skipTest("there is no chromium")
        pictures = []
        for dark in ((), ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")):
            picture = self.folder / f"page{len(pictures)}.png"
            done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *dark,
                                   f"--user-data-dir={self.folder}/browser", "--window-size=1280,1600",
                                   f"--screenshot={picture}", self.file.as_uri()],
                                  capture_output=True, text=True, timeout=120)
            self.assertTrue(picture.exists(), done.stderr)
            pictures.append(picture.read_bytes())
            self.assertGreater(len(pictures[-1]), 20_000)  # an empty page is smaller
        self.assertNotEqual(*pictures)


def main():
    global PROGRAM, SNIPPETS, MPIRUN
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--program", required=True)
    parser.add_argument("--snippets")
    parser.add_argument("--mpirun", help="starts two ranks of them")
    arguments, rest = parser.parse_known_args()
    PROGRAM, SNIPPETS, MPIRUN = arguments.program, arguments.snippets, arguments.mpirun
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()

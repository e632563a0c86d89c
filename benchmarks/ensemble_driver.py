# SPDX-License-Identifier: BSD-3-Clause
"""Runs the ensemble benchmark: a request to a member process and back, against torch.multiprocessing; two models at once,
against one thread that calls both; and members that are killed.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import os
import statistics
import sys
import tempfile
from operator import itemgetter

from driver import NOT_MEASURED, Parser, append_record, main, print_result
from sides import figures_in, find_versions, has_python, in_turns, one_process, program_of, rank_processes, ratio

VARIANTS = ["identity", "python", "one_thread", "two_threads", "two_members", "kills"]


def parse(arguments):
    parser = Parser("ensemble", __doc__, ("a start", 120))
    parser.number("--rounds", 5, "starts of each variant")
    parser.number("--requests", 3000, "round trips a start")
    parser.number("--python-requests", 1000, "the same of Python")
    parser.number("--images", 20, "images through two ResNet-18 a start")
    parser.number("--kills", 2000, "requests while members are killed")
    parser.add_argument("--no-python", action="store_true", help="leave Python's side out")
    return parser.parse(arguments)


def run_once(options, variant):
    """Starts a variant once; its figures."""
    requests = {"identity": options.requests, "python": options.python_requests, "kills": options.kills}.get(variant, options.images)
    with tempfile.TemporaryDirectory() as folder:
        if variant == "python":
            command = [*program_of(options, "ensemble.py"), str(requests)]
        else:
            # Two programs of one thread each, at once: what two cores can do when nobody waits for anybody.
            name = "one_thread" if variant == "two_threads" else variant
            command = [options.program, "--variant", name, "--requests", str(requests)]
            command += ["--weights", os.path.join(folder, "weights.safetensors")]
        job = rank_processes(command, 2) if variant == "two_threads" else one_process(command)
        return figures_in(job.wait(options.deadline))


def median(raw, variant, name):
    return statistics.median(figures[name] for figures in raw[variant])


def summarize(raw):
    return {
        "p50_us": round(median(raw, "identity", "p50_us"), 1),
        "vs_python": round(ratio(raw, "python", "identity", itemgetter("p50_us")), 2) if "python" in raw else None,
        "beyond_copies_us": round(statistics.median(one["p50_us"] - one["copies_us"] for one in raw["identity"]), 1),
        "two_models": round(ratio(raw, "one_thread", "two_members", itemgetter("request_ms")), 3),
        # Each of the two programs calls both models: two requests in that time.
        "two_models_possible": round(2 * ratio(raw, "one_thread", "two_threads", itemgetter("request_ms")), 3),
        "restart_ms": round(median(raw, "kills", "restart_ms"), 1),
        "lost": sum(figures["lost"] for figures in raw["kills"]),
    }


def print_table(options, raw):
    print(f"{options.rounds} rounds; medians")
    for variant, name, unit in (
        ("identity", "p50_us", "us, p50 of a request of 600 KiB to a process and back"),
        ("identity", "p99_us", "us, p99 of the same"),
        ("identity", "small_p50_us", "us, p50 of a request of 4 bytes: no copies"),
        ("identity", "copy_us", "us, one copy of 600 KiB within a core's cache"),
        ("identity", "copies_us", "us, the three copies of a request and its answer, between two threads on two cores"),
        ("python", "p50_us", "us, p50 over the queues of torch.multiprocessing"),
        ("python", "p99_us", "us, p99 of the same"),
        ("one_thread", "request_ms", "ms, an image through two ResNet-18 in one thread"),
        ("two_threads", "request_ms", "ms, the same in each of two programs of one thread, at once"),
        ("two_members", "request_ms", "ms, the same through two members"),
        ("kills", "load_ms", "ms, making a ResNet-18 from its file and a first call"),
        ("kills", "restart_ms", "ms more until a killed member has answered"),
        ("kills", "errors", "requests with an error, of those sent while members were killed"),
    ):
        if variant in raw:
            values = [figures[name] for figures in raw[variant]]
            print(f"{statistics.median(values):>10.1f} ({min(values):.1f} to {max(values):.1f}) {unit}")


def run(options, command):
    versions = find_versions(options)
    with_python = has_python(options, versions)
    variants = [variant for variant in VARIANTS if with_python or variant != "python"]
    raw = in_turns(options, variants, lambda variant: run_once(options, variant))
    result = summarize(raw)
    print_table(options, raw)
    unit = "raw: variant -> round -> figures"
    append_record(options, "ensemble", command, versions=versions, unit=unit, raw=raw, ratios=result)
    print_result({name: NOT_MEASURED if value is None else value for name, value in result.items()})


if __name__ == "__main__":
    sys.exit(main("ensemble", parse, run))

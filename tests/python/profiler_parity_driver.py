# SPDX-License-Identifier: BSD-3-Clause
"""Compares traces and schedules of lockstep::training::Profiler with those of torch.profiler: a C++ program records a small
model, and this one records the same with Python's profiler. Both must have the same operators, as often, with the same shapes.

    profiler_parity_driver.py COMMAND ...

Exit status: that of the command; 1 where the sides differ; 77 (skipped) where torch is missing.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
import warnings

SKIPPED = 77


def import_or_skip():
    try:
        import torch
        import torch.profiler

        return torch
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python has no torch: {error}")
        sys.exit(SKIPPED)


def make_tensor(torch, *shape):
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape).mul(0.1).sin().requires_grad_()


def record(torch, path):
    """As the C++ program."""
    functional = torch.nn.functional
    data = make_tensor(torch, 5, 4).detach()
    parameters = [make_tensor(torch, *shape) for shape in ((8, 4), (8,), (2, 8), (2,))]
    profile = torch.profiler
    with profile.profile(
        activities=[profile.ProfilerActivity.CPU],
        schedule=profile.schedule(wait=1, warmup=1, active=3, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(path),
        record_shapes=True,
        profile_memory=True,
    ) as profiler:
        for _ in range(6):
            hidden = torch.tanh(functional.linear(data, parameters[0], parameters[1]))
            functional.linear(hidden, parameters[2], parameters[3]).square().mean().backward()
            for parameter in parameters:
                parameter.grad = None
            profiler.step()


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def counts(trace):
    """How often each operator and annotation is there, with the shapes of its inputs."""
    return collections.Counter(
        (event["cat"], event["name"], json.dumps(event["args"].get("Input Dims", [])))
        for event in trace["traceEvents"]
        if event.get("cat") in ("cpu_op", "user_annotation")
    )


def differences_of_traces(own, python):
    found, expected = counts(own), counts(python)
    print(f"{sum(expected.values())} events of {len(expected)} kinds in Python's trace, {sum(found.values())} in ours")
    if not expected:
        yield "Python's trace is empty"
    for kind in sorted(found.keys() | expected.keys()):
        if found[kind] != expected[kind]:
            yield f"{kind}: {found[kind]} times, and {expected[kind]} times in Python's trace"
    if not any(event.get("name") == "[memory]" for event in own["traceEvents"]):
        yield "no allocation was recorded"


def differences_of_additions(own):
    expected = {"backend": "Single", "rank": 0, "world_size": 1}
    if own.get("distributedInfo") != expected:
        yield f"distributedInfo is {own.get('distributedInfo')}"
    spans = [event for event in own["traceEvents"] if event.get("cat") == "lockstep"]
    if [span["name"] for span in spans] != ['span "of"\n the \u00e4 program'] * 3:
        yield f"the program's spans are {spans}"
    steps = [event for event in own["traceEvents"] if event.get("name", "").startswith("ProfilerStep#")]
    for span, step in zip(spans, sorted(steps, key=lambda step: step["ts"])):
        # In its step, however long that took on a busy machine. The second is for clocks that have run apart since they were
        # compared, when the recording began.
        begin, end = step["ts"], step["ts"] + step["dur"]
        if not begin - 1e6 <= span["ts"] <= end + 1e6:
            yield f"a span at {span['ts']} us belongs to the step from {begin} us to {end} us"


def differences_of_schedules(torch, path):
    rows = 0
    with open(path, encoding="utf-8") as table:
        for row in table:
            *options, found = row.split()
            names = ("wait", "warmup", "active", "repeat", "skip_first", "skip_first_wait")
            schedule = torch.profiler.schedule(**dict(zip(names, map(int, options))))
            expected = "".join(str(schedule(step).value) for step in range(len(found)))
            rows += 1
            if found != expected:
                yield f"schedule of {options}: {found} instead of {expected}"
    print(f"{rows} schedules were compared")
    if rows < 400:
        yield f"{rows} schedules only"


def main():
    torch = import_or_skip()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        status = subprocess.run(sys.argv[1:], env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder)).returncode
        if status:
            return status
        python_path = os.path.join(folder, "python.json")
        record(torch, python_path)
        own = load(os.path.join(folder, "rank0.step2.json"))
        found = [
            *differences_of_traces(own, load(python_path)),
            *differences_of_additions(own),
            *differences_of_schedules(torch, os.path.join(folder, "schedules.txt")),
        ]
        print("\n".join(found) or "all in order")
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

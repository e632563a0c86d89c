#!/usr/bin/env python3
"""Checks that each layer includes only what it may see, that no two files include each other, and that native calls stay
in their layer.

Usage: check_layers.py [ROOT]. Prints one line a violation; exit status 1 when there is one.
"""

import re
import sys
from pathlib import Path

BELOW = {"native", "core", "concurrency"}
# What those outside of comm, and every backend, may see of it.
COMM = {"comm/collective", "comm/group", "comm/interface"}
# A folder for each backend, and what it may see beside that. No other backend, as a rule.
BACKENDS = {
    "comm/single": set(),
    "comm/shared_memory": set(),
    "comm/mpi": {"comm/exchange"},
    "comm/tcp": {"comm/exchange"},
    "comm/gloo": {"comm/exchange"},
    "comm/nccl": set(),
    "comm/hierarchical": {"comm/exchange", "comm/mpi", "comm/shared_memory", "comm/tcp"},
}
# A layer sees itself and the layers named here; `comm` in `data` would make a sampler depend on communication. A layer that is
# divided has a row for each of its modules (folders) instead of one for itself.
SEES = {
    "core": set(),
    "concurrency": set(),
    "native": {"core", "concurrency"},
    "files": BELOW,
    "comm/collective": BELOW,
    "comm/interface": BELOW | {"comm/collective"},
    "comm/group": BELOW | {"comm/collective", "comm/interface"},
    "comm/exchange": BELOW | COMM,
    "comm/bootstrap": BELOW | COMM | BACKENDS.keys(),
    **{backend: BELOW | COMM | more for backend, more in BACKENDS.items()},
    "optim": BELOW | COMM,
    "optim/lr_scheduler": BELOW | COMM | {"files", "optim"},
    "amp": {"core", "concurrency", "optim"} | COMM,
    "parallel/interface": BELOW | COMM,
    "parallel/buckets": BELOW | COMM | {"parallel/interface"},
    "parallel/ddp": BELOW | COMM | {"parallel/interface", "parallel/buckets"},
    "parallel/data_parallel": BELOW | COMM | {"comm/bootstrap", "parallel/interface", "parallel/ddp"},
    "parallel/graph": BELOW | COMM | {"optim", "parallel/interface", "parallel/ddp"},
    "parallel/hooks": BELOW | COMM | {"parallel/interface"},
    "parallel/batch_norm": BELOW | COMM | {"optim"},
    "pipeline/runtime": BELOW | COMM | {"parallel/ddp", "pipeline/schedule"},
    "pipeline/schedule": BELOW | {"files"},
    "tensor_parallel": BELOW | COMM | {"optim", "training/safetensors"},
    "workers": {"native", "core", "concurrency"},
    "workers/tasks": BELOW | {"workers"},
    "data/samples": BELOW,
    "data/samplers": BELOW,
    "data/readers": BELOW | {"files", "data/interface"},
    "data/images": BELOW | {"data/interface", "data/readers", "data/samplers"},
    "data/interface": BELOW | {"data/samples", "data/samplers"},
    "data/loader": BELOW | {"workers", "data/interface", "data/samples", "data/samplers"},
    "inference": BELOW | {"workers", "training/safetensors"},
    "training/interface": BELOW | COMM,
    "training/activation": {"concurrency", "core", "training/ambient"},
    "training/ambient": {"core"},
    "training/background": BELOW | {"files", "training/interface", "training/safetensors"},
    "training/checkpoint": BELOW | COMM | {"files", "training/interface", "training/safetensors"},
    "training/metrics": BELOW | COMM,
    "training/progress": BELOW,
    "training/run_log": BELOW | {"files", "training/interface"},
    "training/optimizer": BELOW | {"files", "optim", "training/interface", "training/safetensors"},
    "training/profiler": BELOW | COMM | {"files", "parallel/interface"},
    "training/safetensors": BELOW | {"files"},
    "training/stop": BELOW | COMM | {"training/interface"},
    "training/tensorboard": BELOW | COMM | {"training/background", "training/interface"},
    "training/state": BELOW | {"files", "training/ambient", "training/interface", "training/optimizer", "training/safetensors"},
}
# Header and source of one name are one unit, public header or not. Where public headers lie flat although their layer is
# divided, this says to which module's unit one belongs.
UNIT_OF = {
    "comm/call_options": "comm/interface/call_options",
    "comm/future": "comm/interface/future",
    "comm/init": "comm/bootstrap/init",
    "comm/local_ranks": "comm/bootstrap/local_ranks",
    "comm/mesh": "comm/group/mesh",
    "comm/options": "comm/interface/options",
    "comm/process_group": "comm/group/process_group",
    "comm/types": "comm/collective/types",
    "comm/work": "comm/group/work",
    "data/collate": "data/interface/collate",
    "data/dataset": "data/interface/dataset",
    "data/dataset_access": "data/interface/dataset_access",
    "data/file_parts": "data/interface/file_parts",
    "data/sample_codec": "data/samples/sample_codec",
    "data/sampler": "data/samplers/sampler",
    "optim/lr_scheduler": "optim/lr_scheduler/lr_scheduler",
    "parallel/communication_hook": "parallel/interface/communication_hook",
    "parallel/data_parallel": "parallel/data_parallel/data_parallel",
    "parallel/distributed_data_parallel": "parallel/ddp/distributed_data_parallel",
    "parallel/distributed_data_parallel_options": "parallel/interface/distributed_data_parallel_options",
    "parallel/graphed_step": "parallel/graph/graphed_step",
    "parallel/statistics": "parallel/interface/statistics",
    "parallel/sync_batch_norm": "parallel/batch_norm/sync_batch_norm",
    "pipeline/action": "pipeline/schedule/action",
    "pipeline/pipeline": "pipeline/runtime/pipeline",
    "pipeline/pipeline_options": "pipeline/runtime/pipeline_options",
    "pipeline/plan": "pipeline/schedule/plan",
    "pipeline/schedule": "pipeline/schedule/schedule",
    "pipeline/simulation": "pipeline/schedule/simulation",
    "pipeline/stage": "pipeline/runtime/stage",
    "pipeline/stage_call": "pipeline/runtime/stage_call",
    "pipeline/statistics": "pipeline/runtime/statistics",
    "pipeline/step": "pipeline/schedule/step",
    "training/activation_checkpoint": "training/activation/activation_checkpoint",
    "training/background_writer": "training/interface/background_writer",
    "training/checkpointer": "training/interface/checkpointer",
    "training/load_state": "training/safetensors/load_state",
    "training/log_sinks": "training/interface/log_sinks",
    "training/metric_set": "training/metrics/metric_set",
    "training/metrics": "training/metrics/metrics",
    "training/progress": "training/progress/progress",
    "training/prometheus_file": "training/run_log/prometheus_file",
    "training/run_log": "training/run_log/run_log",
    "training/optimizer_state": "training/interface/optimizer_state",
    "training/overlap_report": "training/profiler/overlap_report",
    "training/profiler": "training/profiler/profiler",
    "training/range": "training/profiler/range",
    "training/safetensors": "training/safetensors/safetensors",
    "training/safetensors_header": "training/safetensors/safetensors_header",
    "training/stop_request": "training/interface/stop_request",
    "training/trace_span": "training/profiler/trace_spans",
    "training/tensorboard": "training/interface/tensorboard",
    "training/training_state": "training/interface/training_state",
    "training/weight_names": "training/safetensors/weight_names",
    "workers/background_tasks": "workers/tasks/background_tasks",
    "workers/task_call": "workers/tasks/task_call",
    "workers/task_future": "workers/tasks/task_future",
    "workers/task_map": "workers/tasks/task_map",
    "workers/task_map_chunks": "workers/tasks/task_map_chunks",
    "workers/task_pool": "workers/tasks/task_pool",
    "workers/task_pool_options": "workers/tasks/task_pool_options",
    "workers/task_pool_statistics": "workers/tasks/task_pool_statistics",
    "workers/task_port": "workers/tasks/task_port",
    "workers/task_results": "workers/tasks/task_results",
    "workers/tensor_codec": "workers/tasks/tensor_codec",
    "parallel/step_batch": "parallel/graph/step_batch",
    "parallel/replicate": "parallel/data_parallel/replicate",
    "parallel/watch_outputs": "parallel/ddp/watch_outputs",
    "parallel/wrapped_module": "parallel/ddp/wrapped_module",
}
# Units that see a module which their own may not see. This list only becomes shorter.
LOOKS_BACK = {("comm/group/split", "comm/single")}
# What no torch header may be seen from, so that sanitizers see all of it.
TORCH_FREE = ("src/concurrency/", "src/native/posix/",
              *(f"src/workers/{name}" for name in ("channel", "claim", "failure", "fork", "item", "overflow", "pool", "slot", "task_channel", "task_items", "thread")),
              *(f"src/inference/{name}" for name in ("latency_histogram", "request_channel", "request_words", "spinning")),
              "src/training/background/line_ring", "src/training/profiler/intervals", "src/training/tensorboard/crc32c", "src/training/tensorboard/utf8", "src/comm/shared_memory/counters", "src/comm/shared_memory/ring_buffer", "src/comm/collective/fingerprint.h", *(f"src/comm/tcp/{name}" for name in ("announcements", "chain_reduction", "connections", "engine", "mailbox", "mesh", "owner_reduction", "reduction.h", "stream")))
# token, what it is, files in which it may stand
BANNED = [
    (r"\bMPI_[A-Z]\w*", "MPI", r"src/native/mpi/|src/comm/(mpi/|hierarchical/mpi_)"),
    (r"\bnccl[A-Z]\w*", "NCCL", r"src/native/nccl/|src/comm/nccl/"),
    (r"\b(curl_\w+|CURL\w*)", "libcurl", r"src/native/curl/"),
    (r"\bcuda[A-Z]\w*", "CUDA", r"src/native/(cuda/|nccl/nccl_library\.cpp)"),  # NCCL takes CUDA's streams
    (r"\bstd::c(out|err)\b|\bprintf\(", "printing", r"src/native/posix/output_buffers\.cpp"),  # it writes what others have printed
    (r"(?<![\w.>])(exit\(|abort\(\))", "ending the process", r"src/native/posix/|src/workers/"),
    (r"\.detach\(\);", "a detached thread", r"src/(parallel/|workers/thread_workers\.cpp|training/checkpoint/save_thread\.cpp)"),
    (r"\bpthread_(cond|mutex)_|\bcondition_variable\b|\bsem_wait\b|FUTEX_WAIT\b", "a wait without a deadline of ours", r"futex\.cpp$"),
]


def unit_of(path: str) -> str:
    """`path` below src/ or include/lockstep/, without its suffix; what lies in detail/ belongs to the folder around it."""
    unit = path.rsplit(".", 1)[0].replace("/detail/", "/")
    return UNIT_OF.get(unit, unit)


def module_of(unit: str):
    """The row of SEES with the longest path around this unit."""
    while "/" in unit:
        unit = unit.rsplit("/", 1)[0]
        if unit in SEES:
            return unit
    return None


def check_includes(unit: str, text: str, units: set, includes: set):
    """Yields (line number, what is wrong), and adds what the file includes to `includes`."""
    module = module_of(unit)
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#include\s+(?:<lockstep/([^>]+)>|"([^"]+)")', line)
        if not match:
            continue
        seen = unit_of(match.group(1) or match.group(2))
        if seen not in units:
            yield number, f"includes '{seen}', which is no file of src/ or include/"
            continue
        includes.add((unit, seen))
        seen_module = module_of(seen)
        if seen_module not in SEES[module] | {module} and (unit, seen_module) not in LOOKS_BACK:
            yield number, f"{module} may not see {seen_module}"


def check_code(name: str, text: str):
    for number, line in enumerate(text.splitlines(), 1):
        if name.startswith(TORCH_FREE) and re.match(r"\s*#include\s+<(torch|ATen|c10)/", line):
            yield number, "torch in a torch-free place"
        code = re.sub(r'"[^"]*"', '""', line).split("//")[0]
        for pattern, what, allowed in BANNED:
            if re.search(pattern, code) and not re.search(allowed, name):
                yield number, f"{what} does not belong here"


def check_pairs(includes: set):
    pairs = {(a, b) for a, b in includes if a < b and (b, a) in includes}
    yield from (f"{a} and {b} include each other" for a, b in sorted(pairs))
    seen = {(unit, module_of(other)) for unit, other in includes}
    yield from (f"{unit} no longer sees {module}: strike it off the list in check_layers.py"
                for unit, module in sorted(LOOKS_BACK - seen))


def check(sources: dict):
    """`sources`: the text of each file, by its path below the root."""
    unit_by_name = {name: unit_of(re.sub(r"^(src|include/lockstep)/", "", name)) for name in sources}
    units = set(unit_by_name.values())
    includes = set()
    for name, text in sources.items():
        unit = unit_by_name[name]
        if module_of(unit) is None:
            yield f"{name}: '{unit.rsplit('/', 1)[0]}' is no module of src/"
            continue
        found = [*check_includes(unit, text, units, includes), *check_code(name, text)]
        yield from (f"{name}:{number}: {what}" for number, what in sorted(found))
    yield from check_pairs({(a, b) for a, b in includes if a != b})


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    files = [p for top in ("src", "include/lockstep") for p in sorted((root / top).rglob("*")) if p.suffix in (".h", ".cpp")]
    sources = {p.relative_to(root).as_posix(): p.read_text() for p in files if p.parent != root / "include/lockstep"}
    if not sources:
        print(f"check_layers: no sources below {root}")
        return 1
    violations = list(check(sources))
    print("\n".join(violations) if violations else f"check_layers: {len(sources)} files, all in order")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

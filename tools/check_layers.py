#!/usr/bin/env python3
"""Checks that each room of the house includes only what it may see, and that native things stay in their room.

Usage: check_layers.py [ROOT]. Prints one line a violation; exit status 1 when there is one.
"""

import re
import sys
from pathlib import Path

# A room sees itself and the rooms named here; `comm` in `data` would make a sampler depend on communication.
SEES = {
    "core": set(),
    "concurrency": set(),
    "native": {"core", "concurrency"},
    "comm": {"native", "core", "concurrency"},
    "parallel": {"comm", "native", "core", "concurrency"},
    "workers": {"native", "core", "concurrency"},
    "data": {"workers", "native", "core", "concurrency"},
    "inference": {"workers", "native", "core", "concurrency"},
    "training": {"comm", "concurrency", "core"},
}
# What no torch header may be seen from, so that sanitizers see all of it.
TORCH_FREE = ("src/concurrency/", "src/native/posix/", "src/comm/shared_memory_rounds", "src/comm/shared_memory_pipe", "src/comm/fingerprint.h")
# token, what it is, files in which it may stand
BANNED = [
    (r"\bMPI_[A-Z]\w*", "MPI", r"src/native/mpi/|src/comm/mpi_"),
    (r"\bnccl[A-Z]\w*", "NCCL", r"src/native/nccl/|src/comm/nccl_"),
    (r"\bcuda[A-Z]\w*", "CUDA", r"src/native/(cuda/|nccl/nccl_library\.cpp)"),  # NCCL takes CUDA's streams
    (r"\bstd::c(out|err)\b|\bprintf\(", "printing", r"src/native/posix/output_buffers\.cpp"),  # it writes what others have printed
    (r"(?<![\w_])(exit|abort)\(", "ending the process", r"src/native/posix/|src/workers/"),
    (r"\.detach\(\);", "a detached thread", r"src/(parallel/|workers/thread_workers\.cpp)"),
    (r"\bpthread_(cond|mutex)_|\bcondition_variable\b|\bsem_wait\b|FUTEX_WAIT\b", "a wait without a deadline of ours", r"futex\.cpp$"),
]


def room_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    return parts[1] if parts[0] == "src" else parts[2]


def included_rooms(line: str):
    match = re.match(r'\s*#include\s+(?:<lockstep/(\w+)/|"(\w+)/)', line)
    return match and (match.group(1) or match.group(2))


def check_file(path: Path, root: Path):
    name = path.relative_to(root).as_posix()
    room = room_of(path, root)
    if room not in SEES:
        yield f"{name}: '{room}' is no room of the house"
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{name}:{number}"
        seen = included_rooms(line)
        if seen and seen != room and seen not in SEES[room]:
            yield f"{where}: {room} may not see {seen}"
        if name.startswith(TORCH_FREE) and re.match(r"\s*#include\s+<(torch|ATen|c10)/", line):
            yield f"{where}: torch in a torch-free place"
        code = re.sub(r'"[^"]*"', '""', line).split("//")[0]
        for pattern, what, allowed in BANNED:
            if re.search(pattern, code) and not re.search(allowed, name):
                yield f"{where}: {what} does not belong here"


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    files = [p for top in ("src", "include/lockstep") for p in sorted((root / top).rglob("*")) if p.suffix in (".h", ".cpp")]
    files = [p for p in files if p.name != "lockstep.h"]
    if not files:
        print(f"check_layers: no sources below {root}")
        return 1
    violations = [v for path in files for v in check_file(path, root)]
    print("\n".join(violations) if violations else f"check_layers: {len(files)} files, all in order")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

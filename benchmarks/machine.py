# SPDX-License-Identifier: BSD-3-Clause
"""What a record says about where its figures come from. No host name, no path, no user."""

import os
import platform
import subprocess


def _first_value(path, key, separator):
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                name, found, value = line.partition(separator)
                if found and name.strip() == key:
                    return value.strip().strip('"')
    except OSError:
        pass
    return "unknown"


def facts():
    return {
        "cpu": _first_value("/proc/cpuinfo", "model name", ":"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "architecture": platform.machine(),
    }


def operating_system():
    return f"{_first_value('/etc/os-release', 'PRETTY_NAME', '=')}, Linux {platform.release()}"


def commit(root):
    """The commit of the tree and whether the tree differs from it; records do not count. Without git, there is none and the tree differs."""
    def git(*arguments):
        try:
            result = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--", ".", ":(exclude)benchmarks/records")
    return {"commit": head or "none", "dirty": status is None or status != ""}

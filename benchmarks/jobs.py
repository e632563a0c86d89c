# SPDX-License-Identifier: BSD-3-Clause
"""Starts the processes of one measurement, waits for them with a deadline, and leaves none behind."""

import os
import signal
import subprocess
import tempfile
import time


SKIPPED = 77


class JobError(Exception):
    """A process failed or did not end in time; the text ends with what it printed last."""


class JobSkipped(JobError):
    """A process said by its exit code, SKIPPED, that this machine cannot do what was asked; the text is what it printed."""


def _sessions_members(sessions):
    """Process ids in these sessions. mpirun gives each rank a process group of its own, but not a session."""
    members = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        state, session = fields[0], int(fields[3])
        if session in sessions and state != "Z":
            members.append(int(entry))
    return members


class Job:
    """Processes that belong together: one mpirun, or one process a rank."""

    def __init__(self, commands, environments):
        self._outputs = []
        self._processes = []
        try:
            for command, environment in zip(commands, environments):
                output = tempfile.TemporaryFile()
                self._outputs.append(output)
                self._processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        except BaseException:
            self.stop()
            raise

    def wait(self, deadline_seconds):
        """Returns what the first process printed when all ended well; the first that did not, or the deadline, raises
        JobError."""
        end = time.monotonic() + deadline_seconds
        try:
            while True:
                codes = [process.poll() for process in self._processes]
                for index, code in enumerate(codes):
                    if code:
                        self.stop()
                        if code == SKIPPED:
                            raise JobSkipped(self._text(index))
                        raise JobError(f"exit code {code}{self._tail(index)}")
                if all(code == 0 for code in codes):
                    return self._text(0)
                if time.monotonic() > end:
                    self.stop()
                    raise JobError(f"still running after {deadline_seconds:.0f} s{self._tail(codes.index(None))}")
                time.sleep(0.02)
        finally:
            self.stop()
            for output in self._outputs:
                output.close()

    def stop(self):
        """Ends what still runs: mpirun gets a moment to end its ranks, then everything in the sessions is killed."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        grace = time.monotonic() + 3
        while time.monotonic() < grace and any(process.poll() is None for process in self._processes):
            time.sleep(0.05)
        sessions = {process.pid for process in self._processes}
        for pid in _sessions_members(sessions):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self._processes:
            process.wait()

    def _text(self, index):
        output = self._outputs[index]
        output.seek(0)
        return output.read().decode("utf-8", "replace").rstrip()

    def _tail(self, index, lines=15):
        text = self._text(index)
        return "\n  " + "\n  ".join(text.splitlines()[-lines:]) if text else ", and it printed nothing"

# SPDX-License-Identifier: BSD-3-Clause
"""What drivers share that compare sides in turns: how a side is started and read, rounds, ratios and tables."""

import contextlib
import itertools
import json
import os
import socket
import statistics
import sys

from driver import FOLDER, output_of, show_progress, versions_of
from jobs import Job, JobError, JobSkipped


def find_versions(options):
    """What the C++ program says of itself, and the torch of a Python that can run the other side, if there is one."""
    versions = versions_of(options.program)
    probe = "import torch, torch.distributed as d; assert d.is_gloo_available(); print(torch.__version__)"
    python_torch = options.python and output_of([options.python, "-c", probe])
    if python_torch:
        versions["python_torch"] = python_torch
    return versions


def has_python(options, versions, whose="Python"):
    """Whether Python's side runs; tells where it does not."""
    if not options.no_python and "python_torch" in versions:
        return True
    print(f"benchmark: {whose}'s side is left out", file=sys.stderr)
    return False


def program_of(options, python_file=None):
    """How the command of a side begins: the C++ program, or a file of this folder for Python."""
    return [options.python, os.path.join(FOLDER, python_file)] if python_file else [options.program]


def chosen(options, names):
    return {name: getattr(options, name) for name in names}


def words(options, names):
    """These options as a program is given them."""
    return [word for name, value in chosen(options, names).items() for word in (f"--{name}", str(value))]


PORTS = itertools.count(os.getpid() * 61)


def free_port():
    """Below the ports that the kernel gives to whoever asks for any (from 32768), and other ones in processes that
    run at the same time, with few exceptions: hardly anybody takes it before it is used."""
    for _ in range(20000):
        port = 10000 + next(PORTS) % 20000
        with socket.socket() as probe:
            # As those who listen there do it: connections that have ended are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise JobError("there is no free port")


def rank_environments(ranks):
    """The launch variables of torchrun, one set a rank, everything on the loop-back interface."""
    common = dict(
        os.environ,
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="lo",
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
    )
    return [dict(common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(ranks)]


def one_process(command, **variables):
    return Job([command], [dict(os.environ, **variables)])


def rank_processes(command, ranks):
    return Job([command] * ranks, rank_environments(ranks))


def mpi_processes(command, ranks, **variables):
    """No ranks are bound to cores, as with Python's; loop-back and shared memory only."""
    mpirun = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", "--mca", "btl", "self,vader"]
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return one_process([*mpirun, *command], OMP_NUM_THREADS="1", **as_root, **variables)


def figures_in(text):
    """The last line of what a side printed: a number, or figures as JSON."""
    lines = text.splitlines() or [""]
    try:
        return json.loads(lines[-1])
    except ValueError:
        raise JobError(f"it printed '{lines[-1]}' where its figures should be") from None


def figures_of_ranks(folder, ranks):
    """What each rank left as JSON."""
    figures = []
    for rank in range(ranks):
        with open(os.path.join(folder, f"rank{rank}.json"), encoding="ascii") as file:
            figures.append(json.load(file))
    return figures


def lines_of_rank(path, count):
    """Numbers of each line, of which there must be `count`."""
    with open(path, encoding="ascii") as file:
        lines = [[float(word) for word in line.split()] for line in file]
    if len(lines) != count:
        raise JobError(f"{os.path.basename(path)} has {len(lines)} lines of figures instead of {count}")
    return lines


def extras_of_rank(path):
    """What a rank tells beside its times: a name and a number a line."""
    with open(path, encoding="ascii") as file:
        return {name: round(float(value), 3) for name, value in (line.split() for line in file)}


def in_turns(options, ways, start, what=""):
    """{way: what start(way) returned in each round}. Each round starts each way once, in an order that turns, so that
    drift of the machine hits all alike. `start` may read the round's number in `options.round`."""
    raw = {way: [] for way in ways}
    order = list(ways)
    for number in range(options.rounds):
        options.round = number
        turn = number % len(order)
        for way in order[turn:] + order[:turn]:
            show_progress(f"{what + ': ' if what else ''}round {number + 1} of {options.rounds}, {way}")
            try:
                raw[way].append(start(way))
            except JobSkipped:
                show_progress("")
                raise
            except (JobError, OSError, ValueError) as error:
                show_progress("")
                raise JobError(f"variant {way}, {what + ', ' if what else ''}round {number + 1}: {error}") from None
    show_progress("")
    return raw


def halves(raw):
    """Of starts that are pairs: {way: first part of each round}, {way: second part of each round}."""
    return [{way: [start[part] for start in starts] for way, starts in raw.items()} for part in (0, 1)]


def ratio(raw, above, below, figure=lambda start: start):
    """The median over the rounds of the ratio in a round; None where one of both did not run."""
    if above not in raw or below not in raw:
        return None
    return statistics.median(figure(a) / figure(b) for a, b in zip(raw[above], raw[below], strict=True))


def spread(values, form):
    """Cells of a table: median, least and most."""
    return " ".join(format(value, form) for value in (statistics.median(values), min(values), max(values)))


def print_table(raw, heading, width, form, middle="median", more_heading="", more=lambda way: ""):
    """A line a way: its name, the spread of its figures in the form `form`, as in 9.2f, and what `more` says of the way."""
    cell = form.partition(".")[0]
    print(f"{heading:<{width}} " + " ".join(f"{title:>{cell}}" for title in (middle, "min", "max")) + more_heading)
    for way, values in raw.items():
        print(f"{way:<{width}} {spread(values, form)}{more(way)}")

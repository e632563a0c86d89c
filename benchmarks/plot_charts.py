# SPDX-License-Identifier: BSD-3-Clause
"""The pictures: which figures each shows, and how. A picture is a function of the folder of records."""

import math
import statistics
from dataclasses import dataclass

from collectives_driver import LARGEST, SMALLEST, bus_factor
from data_loader_driver import WORKERS
from plot_records import Kind, newest, origin, read, versions
from plot_svg import INK, MARGIN, MUTED, WIDTH, Picture

# Told apart by people who see few colours, and never by colour alone. One library has one colour in all pictures.
LOCKSTEP, PYTORCH, MPI, NOTHING = "#0b62a8", "#d9730d", "#5f8f3a", "#9aa4ae"
PALE = "#6ba6d6"  # Lockstep, another way
BARS_FROM, BARS_TO = 226, 500


@dataclass
class Bar:
    label: str
    colour: str
    rounds: list
    shown: str  # the median with its unit
    ratio: str = ""

    @property
    def median(self):
        return statistics.median(self.rounds)

    def sentence(self):
        return f"{self.label}: {self.shown} ({self.ratio})" if self.ratio else f"{self.label}: {self.shown}"


def draw_bars(picture, y, heading, bars, scale):
    """A heading and a row a bar; each round is a dot. Returns where the next thing may begin."""
    picture.text(MARGIN, y + 4, heading, size=14, weight="bold")
    y += 16
    for bar in bars:
        weight = "bold" if bar.colour == LOCKSTEP else None
        picture.text(BARS_FROM - 10, y + 15, bar.label, anchor="end", weight=weight)
        picture.add("rect", x=BARS_FROM, y=y, width=bar.median * scale, height=21, rx=2, fill=bar.colour)
        for value in bar.rounds:
            picture.add("circle", cx=BARS_FROM + value * scale, cy=y + 10.5, r=2.5, fill=INK, stroke="#ffffff", stroke_width=0.8)
        after = BARS_FROM + max(bar.median, *bar.rounds) * scale + 10
        picture.text(after, y + 15, bar.shown, weight=weight)
        picture.text(WIDTH - MARGIN, y + 15, bar.ratio, anchor="end", fill=MUTED)
        y += 27
    picture.line(BARS_FROM, y - 27 * len(bars) - 3, BARS_FROM, y - 3, stroke=MUTED)
    return y + 22


def scale_of(bars):
    return (BARS_TO - BARS_FROM) / max(max(bar.rounds) for bar in bars)


def rounds_text(counts):
    least, most = min(counts), max(counts)
    return f"{least} rounds" if least == most else f"{least} to {most} rounds"


# ---- step_time.svg

BATCHES = (32, 4)
STEP_SIDES = {
    "lockstep": ("Lockstep", LOCKSTEP),
    "lockstep_alone": ("the step, no communication", NOTHING),
    "plain_mpi": ("MPI_Allreduce after backward", MPI),
    "pytorch_ddp": ("PyTorch DDP (gloo)", PYTORCH),
}


def step_kind(batch):
    return Kind(
        file="ddp_step.jsonl",
        fields={"benchmark": "ddp_step", "arch": "resnet18", "ranks": 2, "batch": batch, "accumulate": 1},
        needs=[(side,) for side in STEP_SIDES],
        remake=f"benchmarks/run.sh ddp_step --batch {batch}",
        defaults={"accumulate": 1},
        options=("--bucket-cap-mib", "--tune-after"),
    )


def step_bars(record):
    bars = {}
    for side, (label, colour) in STEP_SIDES.items():
        rounds = read(record, f"{side}, batch {record['batch']}", lambda raw: [max(ranks) for ranks in raw[side]])
        bars[side] = Bar(label, colour, rounds, f"{statistics.median(rounds):.1f} ms")
    for side in ("plain_mpi", "pytorch_ddp"):
        bars[side].ratio = f"Lockstep: {bars[side].median / bars['lockstep'].median:.2f} times as fast"
    return list(bars.values())


def step_time(folder):
    records = {batch: newest(folder, step_kind(batch)) for batch in BATCHES}
    groups = {batch: step_bars(record) for batch, record in records.items()}
    scale = scale_of([bar for bars in groups.values() for bar in bars])
    told = ". ".join(f"{batch} images a rank: " + "; ".join(b.sentence() for b in bars) for batch, bars in groups.items())
    title = "Time of a training step"
    picture = Picture(title, f"Bar chart, milliseconds, less is better. ResNet-18, 2 ranks. {told}.")
    y = picture.heading(f"{title} (ms, less is better)", "ResNet-18 on 3x32x32 images, SGD; 2 ranks of one thread each, on the CPUs of one machine")
    for batch, bars in groups.items():
        y = draw_bars(picture, y, f"{batch} images a rank", bars, scale)
    foot = ["Bar: median of the rounds. Dot: one round, the median step of its slowest rank."]
    foot += ["Default options: Lockstep's DDP has glibc keep freed memory, the other sides do not."]
    foot += [f"{b} images: {len(groups[b][0].rounds)} rounds, {origin(r)}, {versions(r)}" for b, r in records.items()]
    return picture.finish(picture.foot(y, foot))


# ---- data_loader.svg

SAMPLES = {
    "fmnist": "Fashion-MNIST, 28x28, from memory",
    "synthetic": "3x224x224 floats that cost nothing to make",
    "jpeg": "JPEG 500x375, random crop to 224",
}
LOADER_SIDES = {
    "fmnist": {
        "lockstep": ("Lockstep", LOCKSTEP),
        "pytorch_batched": ("PyTorch, whole batches", PYTORCH),
        "pytorch": ("PyTorch", PYTORCH),
    },
    "synthetic": {"lockstep": ("Lockstep", LOCKSTEP), "pytorch": ("PyTorch", PYTORCH)},
    "jpeg": {
        "lockstep": ("Lockstep", LOCKSTEP),
        "pytorch_io": ("PyTorch, torchvision.io", PYTORCH),
        "pytorch": ("PyTorch, Pillow", PYTORCH),
    },
}
LOADER_KIND = Kind(
    file="data_loader.jsonl",
    fields={"benchmark": "data_loader", "batch": 64, "kind": "process"},
    needs=[(workload, side) for workload, sides in LOADER_SIDES.items() for side in sides],
    remake="benchmarks/run.sh data_loader",
    options=("--quality", "--photographs"),
)


def best_setting(record, workload, side):
    """Samples a second of each round, with the number of workers whose median is best, and that number."""
    speeds = {}
    for index, workers in enumerate(WORKERS):
        name = f"{workload}/{side}, {workers} workers"
        speeds[workers] = read(record, name, lambda raw: [s[index]["samples_per_second"] for s in raw[workload][side]])
    best = max(WORKERS, key=lambda workers: statistics.median(speeds[workers]))
    return speeds[best], best


def loader_bars(record, workload):
    bars = []
    for side, (label, colour) in LOADER_SIDES[workload].items():
        rounds, workers = best_setting(record, workload, side)
        unit = "1 worker" if workers == 1 else f"{workers} workers"
        bars.append(Bar(label, colour, rounds, f"{statistics.median(rounds):,.0f} ({unit})"))
    for bar in bars[1:]:
        bar.ratio = f"Lockstep: {bars[0].median / bar.median:.1f} times as many"
    return bars


def data_loader(folder):
    record = newest(folder, LOADER_KIND)
    groups = {workload: loader_bars(record, workload) for workload in SAMPLES}
    told = ". ".join(f"{SAMPLES[w]}: " + "; ".join(bar.sentence() for bar in bars) for w, bars in groups.items())
    title = "What a DataLoader delivers"
    picture = Picture(title, f"Bar chart, samples a second, more is better. {told}.")
    y = picture.heading(
        f"{title} (samples/s, more is better)",
        "One rank, batch 64; each side with its best number of 0, 1 and 2 worker processes. Each group has its own scale.",
    )
    for workload, bars in groups.items():
        y = draw_bars(picture, y, SAMPLES[workload], bars, scale_of(bars))
    counts = [len(bar.rounds) for bars in groups.values() for bar in bars]
    foot = [f"Bar: median of {rounds_text(counts)}. Dot: one round.", f"{origin(record)}, {versions(record)}"]
    return picture.finish(picture.foot(y, foot))


# ---- all_reduce.svg

CURVES = {
    "limit": ("what memory allows", NOTHING, "5 4"),
    "lockstep": ("Lockstep", LOCKSTEP, None),
    "ordinary": ("Lockstep, ordinary tensor", PALE, None),
    "mpi": ("MPI_Allreduce", MPI, None),
    "gloo": ("gloo", PYTORCH, None),
}
SIZES = [SMALLEST << shift for shift in range(0, 64, 2) if SMALLEST << shift <= LARGEST]
ALL_REDUCE_KIND = Kind(
    file="collectives.jsonl",
    fields={"benchmark": "all_reduce", "ranks": 2},
    needs=[(side, str(size)) for side in CURVES for size in SIZES],
    remake="benchmarks/run.sh all_reduce",
)
LEFT, RIGHT, TOP, BOTTOM = 78, 600, 84, 420


def size_text(size):
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def bandwidths(record, side):
    """GB/s of each round, as nccl-tests defines bus bandwidth; a size each."""
    factor = bus_factor("all_reduce", record["ranks"])
    curve = {}
    for size in SIZES:
        times = read(record, f"{side}, {size} bytes", lambda raw: raw[side][str(size)])
        curve[size] = [size / time / 1e3 * factor for time in times]
    return curve


def spread(places, gap):
    """Moves labels apart that would lie on each other, upwards as much as downwards; their order stays."""
    order = sorted(places, key=places.get)
    moved = {}
    for before, name in zip([None, *order], order):
        moved[name] = places[name] if before is None else max(places[name], moved[before] + gap)
    shift = statistics.mean(moved[name] - places[name] for name in places)
    return {name: place - shift for name, place in moved.items()}


class LogAxes:
    def __init__(self, curves):
        values = [value for curve in curves.values() for rounds in curve.values() for value in rounds]
        self.low, self.high = math.log10(min(values) / 1.5), math.log10(max(values) * 1.5)

    def x(self, size):
        return LEFT + 20 + (RIGHT - LEFT - 40) * SIZES.index(size) / (len(SIZES) - 1)

    def y(self, value):
        return BOTTOM - (BOTTOM - TOP) * (math.log10(value) - self.low) / (self.high - self.low)

    def draw(self, picture):
        for decade in range(math.ceil(self.low), math.floor(self.high) + 1):
            picture.line(LEFT, self.y(10.0**decade), RIGHT, self.y(10.0**decade))
            picture.text(LEFT - 8, self.y(10.0**decade) + 4, f"{10.0**decade:g}", size=12, fill=MUTED, anchor="end")
        for size in SIZES:
            for row, word in enumerate(size_text(size).split()):
                picture.text(self.x(size), BOTTOM + 18 + 14 * row, word, size=12, fill=MUTED, anchor="middle")
        picture.line(LEFT, BOTTOM, RIGHT, BOTTOM, stroke=MUTED)
        picture.text(LEFT - 8, TOP - 4, "GB/s", size=12, fill=MUTED, anchor="end")


def draw_curve(picture, axes, curve, colour, dashes):
    points = [(axes.x(size), axes.y(statistics.median(rounds))) for size, rounds in curve.items()]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    picture.add("polyline", points=path, fill="none", stroke=colour, stroke_width=2.5, stroke_dasharray=dashes)
    for (x, y), rounds in zip(points, curve.values()):
        picture.line(x, axes.y(min(rounds)), x, axes.y(max(rounds)), stroke=colour, width=1.5)
        picture.add("circle", cx=x, cy=y, r=3.5, fill=colour)


def all_reduce(folder):
    record = newest(folder, ALL_REDUCE_KIND)
    curves = {side: bandwidths(record, side) for side in CURVES}
    medians = {side: {size: statistics.median(v) for size, v in curve.items()} for side, curve in curves.items()}
    some = (SIZES[0], 1 << 20, SIZES[-1])
    told = ". ".join(f"{size_text(n)}: " + "; ".join(f"{CURVES[s][0]}: {medians[s][n]:.3g}" for s in CURVES) for n in some)
    title = "Bandwidth of an all-reduce"
    picture = Picture(title, f"Line chart, bus bandwidth in GB/s by size, more is better, both axes logarithmic. 2 ranks. {told}.")
    picture.heading(
        f"{title} (GB/s, more is better)",
        "Sum of floats in place, 2 ranks on the CPUs of one machine; by bytes of the tensor, both axes logarithmic",
    )
    axes = LogAxes(curves)
    axes.draw(picture)
    labels = spread({side: axes.y(medians[side][SIZES[-1]]) for side in CURVES}, 19)
    for side, (label, colour, dashes) in CURVES.items():
        draw_curve(picture, axes, curves[side], colour, dashes)
        end = axes.x(SIZES[-1])
        picture.line(end + 6, axes.y(medians[side][SIZES[-1]]), RIGHT + 8, labels[side], stroke=colour)
        picture.text(RIGHT + 12, labels[side] + 4, label, weight="bold" if side == "lockstep" else None)
    counts = [len(rounds) for curve in curves.values() for rounds in curve.values()]
    foot = [
        f"Point: median of {rounds_text(counts)}; stroke: slowest to fastest round, each of its slowest rank.",
        "Bus bandwidth as in nccl-tests. What memory allows: the same sums by all ranks at once, without any waiting.",
        origin(record),
    ]
    return picture.finish(picture.foot(BOTTOM + 62, foot))


PICTURES = {"step_time.svg": step_time, "data_loader.svg": data_loader, "all_reduce.svg": all_reduce}

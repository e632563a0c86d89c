# SPDX-License-Identifier: BSD-3-Clause
"""Compares event files with those of torch.utils.tensorboard: both sides write the same, and the records must be equal but for
their wall time. Then TensorBoard's own reader reads all that the C++ program wrote.

    tensorboard_parity_driver.py WHEELS COMMAND ...     WHEELS: the folder with the package tensorboard and what it needs

Exit status: that of the command; 1 where something differs; 77 (skipped) where torch or tensorboard is missing.
"""

import io
import math
import os
import subprocess
import sys
import tempfile

SKIPPED = 77
TAGS = ["loss/train", "a b", "back\\slash", "\u00e4"]
SPECIAL = [0.0, -0.0, 1e-45, 1e30, math.inf, -math.inf]


def import_or_skip(wheels):
    sys.path.insert(0, wheels)
    try:
        import tensorboard.backend.event_processing.event_accumulator
        import torch
        import torch.utils.tensorboard

        return torch
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python has no torch or no tensorboard: {error}")
        sys.exit(SKIPPED)


def value_of(i):
    return i * 37 % 101 / 7.0 - 3.0


def numbers(torch, count):
    return torch.arange(count, dtype=torch.float64).mul(37).remainder(101).div(50).sub(0.5)


def write_scalars(torch, make):
    with make("scalars") as board, make("doubles") as doubles:
        double = {"new_style": True, "double_precision": True}
        for i in range(100):
            for tag in TAGS:
                board.add_scalar(tag, value_of(i), i * i - 50)
                doubles.add_scalar(tag, value_of(i), i * i - 50, **double)
        for value in SPECIAL:
            board.add_scalar("special", value, 0)
            doubles.add_scalar("special", value, 0, **double)
        board.add_scalar("nan", math.nan, 0)
        board.add_scalar("tensor", torch.full([], 0.1, dtype=torch.float64), 1)


def write_texts(torch, make):
    with make("texts") as board:
        board.add_text("notes", "hi", 1)
        board.add_text("notes", "", 2)
        board.add_text("\u00e4/b", "| a | b |\n|---|---|\n| \u20ac | <b> |", -3)
        board.add_text("long", "x" * 100000, 0)


def write_images(torch, make):
    with make("images") as board:
        board.add_image("grey", numbers(torch, 35).reshape(5, 7).float(), 1, dataformats="HW")
        board.add_image("grey1", numbers(torch, 35).reshape(1, 5, 7).float(), 2)
        board.add_image("rgb", numbers(torch, 105).reshape(3, 5, 7), 3)
        board.add_image("rgba", numbers(torch, 140).reshape(4, 5, 7).float(), 4)
        board.add_image("bytes", torch.arange(105).reshape(3, 5, 7).to(torch.uint8), 5)
        board.add_image("strided", numbers(torch, 105).reshape(7, 5, 3).float().permute(2, 1, 0), 6)
        board.add_image("large", numbers(torch, 3 * 200 * 300).reshape(3, 200, 300).float(), 7)


def write_histograms(torch, make):
    with make("histograms") as board:
        board.add_histogram("numbers", numbers(torch, 1000), 1)
        board.add_histogram("floats", numbers(torch, 1000).float(), 2)
        board.add_histogram("bytes", torch.arange(256).to(torch.uint8), 3)
        board.add_histogram("apart", torch.tensor([1e-3, 5.0, -2.0, 1e19, -1e-11], dtype=torch.float64), 4)
        board.add_histogram("zero", torch.zeros(3), 0)
        board.add_histogram("cubes", numbers(torch, 1000).pow(9).mul(1e5), -5)


def write_hparams(torch, make):
    from torch.utils.tensorboard.summary import hparams

    values = {"lr": 0.1, "batch": 64, "arch": "resnet18", "zero": 0, "empty": ""}
    with make("hparams") as board:
        experiment, start, end = hparams(values, {"accuracy": 0, "loss/train": 0})
        board.file_writer.add_summary(experiment)
        board.file_writer.add_summary(start)
        board.add_scalar("accuracy", 0.5, 3)
        board.file_writer.add_summary(end)


def write_resumed(torch, make):
    with make("resume", purge_step=100) as board:
        board.add_scalar("a", 1, 100)
    make("resume0", purge_step=0).close()


WRITERS = [write_scalars, write_texts, write_images, write_histograms, write_hparams, write_resumed]


def records_of(folder):
    """The bytes of the events of a run's only file."""
    names = sorted(os.listdir(folder))
    if len(names) != 1 or "tfevents" not in names[0]:
        raise RuntimeError(f"{folder} has {names}")
    with open(os.path.join(folder, names[0]), "rb") as file:
        data = file.read()
    records = []
    while data:
        size = int.from_bytes(data[:8], "little")
        records.append(data[12 : 12 + size])
        data = data[16 + size :]
    return records


def masked(record):
    return record[:1] + record[9:] if record[:1] == b"\x09" else record


def parsed(record):
    from tensorboard.compat.proto.event_pb2 import Event

    event = Event.FromString(record)
    event.wall_time = 0
    return event


def pixels(image):
    from PIL import Image

    with Image.open(io.BytesIO(image.encoded_image_string)) as decoded:
        return decoded.mode, decoded.size, decoded.tobytes()


def same_image(ours, theirs):
    """Two zlibs write other bytes; everything around them must be equal."""
    a, b = ours.summary.value[0].image, theirs.summary.value[0].image
    if pixels(a) != pixels(b):
        return False
    a.encoded_image_string = b.encoded_image_string = b""
    return ours.SerializeToString() == theirs.SerializeToString()


def buckets(histogram):
    """Left end, right end and count of each bucket that has anything."""
    limits, counts = histogram.bucket_limit, histogram.bucket
    return [(limits[i - 1] if i else None, limits[i], counts[i]) for i in range(len(counts)) if counts[i]]


def same_histogram(ours, theirs):
    """Empty buckets in a row are one in ours, and sums have another order."""
    a, b = ours.summary.value[0].histo, theirs.summary.value[0].histo
    close = [math.isclose(getattr(a, n), getattr(b, n), rel_tol=1e-12, abs_tol=1e-12) for n in ("sum", "sum_squares")]
    return (
        buckets(a) == buckets(b)
        and all(close)
        and (a.min, a.max, a.num) == (b.min, b.max, b.num)
        and len(a.bucket) <= len(b.bucket)
        and (ours.step, ours.summary.value[0].tag) == (theirs.step, theirs.summary.value[0].tag)
    )


def same_hparams(ours, theirs):
    """The order of a map is nobody's."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    contents = []
    for event in (ours, theirs):
        data = event.summary.value[0].metadata.plugin_data
        contents.append(HParamsPluginData.FromString(data.content))
        data.content = b""
    return contents[0] == contents[1] and ours == theirs


def same(ours, theirs):
    if masked(ours) == masked(theirs):
        return True
    a, b = parsed(ours), parsed(theirs)
    kinds = [(e.summary.value[0].WhichOneof("value"), e.summary.value[0].tag) if e.summary.value else None for e in (a, b)]
    if kinds[0] != kinds[1] or kinds[0] is None:
        return False
    if kinds[0][0] == "image":
        return same_image(a, b)
    if kinds[0][0] == "histo":
        return same_histogram(a, b)
    return kinds[0][1].startswith("_hparams_/") and same_hparams(a, b)


def differences(folder, runs):
    for run in runs:
        ours, theirs = (records_of(os.path.join(folder, side, run)) for side in ("ours", "reference"))
        if len(ours) != len(theirs):
            yield f"{run}: {len(ours)} records instead of {len(theirs)}"
        yield from (f"{run}: record {i}: {a!r:.300} instead of {b!r:.300}" for i, (a, b) in enumerate(zip(ours, theirs)) if not same(a, b))


def read(folder, run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(os.path.join(folder, "ours", run), size_guidance=dict.fromkeys(["scalars", "tensors", "images", "histograms"], 0))
    return accumulator.Reload()


def check_flags(folder):
    """Python writes flags as numbers, by mistake; the reader knows better."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = read(folder, "flags").SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    return {name: value.bool_value for name, value in start.hparams.items()} == {"amp": True, "compile": False}


def reading(folder, has_images):
    """What TensorBoard's reader finds wrong."""
    scalars = read(folder, "scalars")
    if set(scalars.Tags()["scalars"]) != {*TAGS, "special", "nan", "tensor"}:
        yield f"scalars: {scalars.Tags()}"
    for tag in TAGS:
        if [e.step for e in scalars.Scalars(tag)] != [i * i - 50 for i in range(100)]:
            yield f"scalars: the steps of {tag}"
    if len(read(folder, "doubles").Tensors("loss/train")) != 100:
        yield "doubles"
    if read(folder, "texts").Tensors("notes/text_summary")[0].tensor_proto.string_val[0] != b"hi":
        yield "texts"
    if has_images and len(read(folder, "images").Tags()["images"]) != 7:
        yield "images"
    if len(read(folder, "histograms").Tags()["histograms"]) != 6:
        yield "histograms"
    if not check_flags(folder):
        yield "flags"
    killed = [(e.step, e.value) for e in read(folder, "killed").Scalars("step")]
    expected = [(s, s + (0 if s < 5 else 0.25 if s < 10 else 0.5)) for s in range(20)]
    if killed != expected:
        yield f"killed: {killed}"


def main():
    torch = import_or_skip(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        status = subprocess.run(sys.argv[2:], env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder)).returncode
        if status:
            return status
        has_images = os.path.isdir(os.path.join(folder, "ours", "images"))

        def make(run, **options):
            return torch.utils.tensorboard.SummaryWriter(os.path.join(folder, "reference", run), **options)

        for write in WRITERS:
            if has_images or write is not write_images:
                write(torch, make)
        runs = sorted(os.listdir(os.path.join(folder, "reference")))
        found = [*differences(folder, runs), *reading(folder, has_images)]
        print("\n".join(found[:20]) or f"{len(runs)} runs, all in order")
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

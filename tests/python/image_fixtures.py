#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Makes the files in tests/unit/data/images/fixtures: small images, and what Pillow and torchvision make of them.

Usage: image_fixtures.py FOLDER, with a Python that has torch 2.11, torchvision 0.26 and Pillow. The tests only read what
this wrote, so they need none of them.

cases.txt has a line for each result: what was done, then the place of the bytes in expected.bin. Images are rows of red,
green, blue; floats are little endian. Results of operations are of `pattern(height, width)`, which the tests make, too.
"""

import io
import os
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as F
from PIL import Image, ImageOps


def pattern(height, width):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((x * x * 3 + y * y * 5 + x * y * 7 + c * 85 + ((x * 31) ^ (y * 17))) & 255).astype(np.uint8)


def smooth(height, width):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    values = 128 + 70 * np.sin(x / 5 + c) + 50 * np.cos(y / 4 - c) + 5 * (pattern(height, width) / 128 - 1)
    return np.clip(values, 0, 255).astype(np.uint8)


class Writer:
    def __init__(self, folder):
        self.folder = folder
        self.lines = []
        self.bytes = bytearray()

    def case(self, what, array):
        self.lines.append(f"{what} {len(self.bytes)}")
        self.bytes += np.ascontiguousarray(array).tobytes()

    def image(self, name, encoded):
        (self.folder / name).write_bytes(encoded)
        expected = np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))
        self.case(f"decode {name} {expected.shape[0]} {expected.shape[1]}", expected)

    def close(self):
        (self.folder / "cases.txt").write_text("\n".join(self.lines) + "\n")
        (self.folder / "expected.bin").write_bytes(self.bytes)


def jpeg(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).convert(options.pop("mode", "RGB")).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, extra=b""):
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + extra +
            png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + png_chunk(b"IEND", b""))


def pillow_png(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def jpegs(out):
    scene = smooth(45, 61)
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        out.image(f"rgb_{name}.jpg", jpeg(scene, subsampling=subsampling))
    out.image("progressive.jpg", jpeg(scene, progressive=True))
    out.image("grey.jpg", jpeg(scene, mode="L"))
    out.image("cmyk.jpg", jpeg(smooth(19, 23), mode="CMYK"))
    out.image("one_pixel.jpg", jpeg(scene[:1, :1]))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees: left alone
    out.image("exif_orientation.jpg", jpeg(smooth(9, 14), exif=exif))


def pngs(out):
    scene = Image.fromarray(smooth(13, 17))
    out.image("rgb.png", pillow_png(scene))
    out.image("grey.png", pillow_png(scene.convert("L")))
    out.image("grey_alpha.png", pillow_png(scene.convert("LA")))
    rgba = scene.convert("RGBA")
    rgba.putalpha(Image.fromarray(pattern(13, 17)[..., 0]))
    out.image("rgb_alpha.png", pillow_png(rgba))
    out.image("palette.png", pillow_png(scene.quantize(16)))
    transparent = scene.quantize(16)
    out.image("palette_transparent.png", pillow_png(transparent, transparency=bytes(range(0, 256, 16))))
    out.image("one_bit.png", pillow_png(scene.convert("1")))
    out.image("grey_2.png", png(4, 2, 2, 0, [b"\x1b", b"\xe4"]))
    out.image("grey_4.png", png(4, 1, 4, 0, [b"\x0f\x5a"]))
    out.image("grey_transparent.png", png(3, 1, 8, 0, [b"\x05\x80\xff"], png_chunk(b"tRNS", b"\0\x80")))
    values = [0, 1, 255, 256, 257, 32767, 32768, 65279, 65280, 65535]
    deep = b"".join(struct.pack(">HHH", v, 65535 - v, v) for v in values)
    out.image("rgb_16.png", png(len(values), 1, 16, 2, [deep]))
    # Adam7 is not something that Pillow writes: one pixel a pass for an image of 2 x 2.
    interlaced = zlib.compress(b"\0" + bytes([1, 2, 3]) + b"\0" + bytes([4, 5, 6]) + b"\0" + bytes([7, 8, 9, 10, 11, 12]))
    out.image("interlaced.png", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 1)) +
              png_chunk(b"IDAT", interlaced) + png_chunk(b"IEND", b""))


def planes(array):
    return torch.from_numpy(array).permute(2, 0, 1)


def pixels(tensor):
    return tensor.permute(1, 2, 0).numpy()


def operations(out):
    sizes = [(20, 24, 9, 7), (7, 9, 20, 24), (33, 21, 33, 10), (21, 33, 40, 33), (1, 30, 8, 8), (30, 1, 8, 8), (1, 1, 5, 3),
             (64, 5, 3, 11), (50, 50, 1, 1), (12, 40, 11, 39), (160, 120, 13, 10)]
    for height, width, new_height, new_width in sizes:
        image = pattern(height, width)
        resized = F.resize(planes(image), [new_height, new_width], antialias=True)
        out.case(f"resize {height} {width} {new_height} {new_width}", pixels(resized))
        resized = Image.fromarray(image).resize((new_width, new_height), Image.BILINEAR)
        out.case(f"resize {height} {width} {new_height} {new_width}", np.array(resized))
    for name, function, factors in (("brightness", F.adjust_brightness, (0, 0.3, 1.7)),
                                    ("contrast", F.adjust_contrast, (0, 0.4, 2.2)),
                                    ("saturation", F.adjust_saturation, (0, 0.6, 1.9)),
                                    ("hue", F.adjust_hue, (-0.5, -0.2, 0.1, 0.45))):
        for factor in factors:
            out.case(f"colour {name} {factor} 14 15", pixels(function(planes(pattern(14, 15)), factor)))
    for top, left, height, width in ((2, 3, 4, 5), (0, 0, 9, 11), (-2, -1, 6, 20), (20, 30, 2, 2)):
        out.case(f"crop 9 11 {top} {left} {height} {width}", pixels(F.crop(planes(pattern(9, 11)), top, left, height, width)))
    for mode in ("constant", "edge", "reflect", "symmetric"):
        out.case(f"pad 6 7 {mode} 3 1 2 4", pixels(F.pad(planes(pattern(6, 7)), [3, 1, 2, 4], padding_mode=mode)))
    for height, width, crop_height, crop_width in ((9, 12, 4, 5), (9, 12, 5, 4), (10, 13, 13, 6), (5, 4, 8, 9), (7, 7, 7, 7)):
        cropped = F.center_crop(planes(pattern(height, width)), [crop_height, crop_width])
        out.case(f"center_crop {height} {width} {crop_height} {crop_width}", pixels(cropped))
    for height, width, size in ((20, 31, 9), (31, 20, 9), (9, 9, 9), (6, 10, 13)):
        resized = pixels(T.Resize(size, antialias=True)(planes(pattern(height, width))))
        out.case(f"shorter_side {height} {width} {size} {resized.shape[0]} {resized.shape[1]}", resized)
    out.case("flip horizontal 5 6", pixels(F.horizontal_flip(planes(pattern(5, 6)))))
    out.case("flip vertical 5 6", pixels(F.vertical_flip(planes(pattern(5, 6)))))
    scene = np.array(Image.open(out.folder / "rgb_420.jpg").convert("RGB"))
    for top, left, height, width in ((0, 0, 45, 61), (5, 17, 30, 21), (44, 60, 1, 1), (11, 3, 33, 57)):
        for size in (8, 32):
            cropped = F.resized_crop(planes(scene), top, left, height, width, [size, size], antialias=True)
            out.case(f"resized_crop rgb_420.jpg {top} {left} {height} {width} {size}", pixels(cropped))


def orientations(out):
    """What the eight orientations make of two images that are there already; the tests put them into the EXIF data."""
    for name in ("exif_orientation.jpg", "rgb.png"):
        encoded = (out.folder / name).read_bytes()
        for number in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = number
            data = exif.tobytes()
            if name.endswith(".png"):
                turned = encoded[:33] + png_chunk(b"eXIf", data.removeprefix(b"Exif\0\0")) + encoded[33:]
            else:
                turned = encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + encoded[2:]
            upright = pixels(torchvision.io.decode_image(
                torch.frombuffer(bytearray(turned), dtype=torch.uint8), torchvision.io.ImageReadMode.RGB,
                apply_exif_orientation=True))
            assert np.array_equal(upright, np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(turned))).convert("RGB")))
            out.case(f"upright {name} {number} {upright.shape[0]} {upright.shape[1]}", upright)


def floats(out):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = torchvision.transforms.ToTensor()(np.stack([ramp] * 3, -1))
    out.case("to_float 16 16", image.numpy())
    normalized = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(image)
    out.case("normalize 16 16", normalized.numpy())
    batch = torch.arange(4 * 2 * 6 * 5, dtype=torch.float32).reshape(4, 2, 6, 5) / 7
    labels = torch.tensor([2, 0, 1, 2])
    soft = torch.nn.functional.one_hot(labels, 3).float()
    for factor in (0.0, 0.3, 0.75, 1.0):
        mix = T.MixUp(num_classes=3)
        for what, value in (("data", batch), ("target", labels)):
            value = mix.transform(value, {"lam": factor, "batch_size": 4, "labels": labels}) if what == "data" else \
                soft.roll(1, 0).mul(1.0 - factor).add(soft.mul(factor))
            out.case(f"mixup {what} {factor}", value.numpy())
    for factor, row, column in ((0.5, 3, 2), (0.1, 0, 4), (0.9, 5, 0), (0.0, 2, 2), (1.0, 1, 1)):
        half = 0.5 * np.sqrt(1.0 - factor)
        half_height, half_width = int(half * 6), int(half * 5)
        box = (max(column - half_width, 0), max(row - half_height, 0), min(column + half_width, 5), min(row + half_height, 6))
        kept = 1.0 - (box[2] - box[0]) * (box[3] - box[1]) / 30
        mixed = T.CutMix(num_classes=3).transform(
            batch, {"box": box, "lam_adjusted": kept, "batch_size": 4, "labels": labels})
        out.case(f"cutmix data {factor} {row} {column}", mixed.numpy())
        out.case(f"cutmix target {factor} {row} {column}", soft.roll(1, 0).mul(1.0 - kept).add(soft.mul(kept)).numpy())


def folder(out):
    """folder.txt: files that the test makes, then what torchvision's ImageFolder finds."""
    names = ["b/2.jpg", "b/10.JPG", "b/1.png", "a b/z.jpeg", "a b/sub/0.png", "a b/sub-x/1.png", "a b/sub/y/2.png", "a b/notes.txt",
             "Z/q.webp", "Z/.hidden.png", "Z/x.jpg.bak", "é/ü.png", "é/u.tif", "a/only.bmp", "stray.png"]
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            path = Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        found = torchvision.datasets.ImageFolder(root)
        lines = [f"make {name}" for name in names]
        lines += [f"class {name}" for name in found.classes]
        lines += [f"sample {label} {os.path.relpath(path, root)}" for path, label in found.samples]
    (out.folder / "folder.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    if len(sys.argv) != 2:
        print("usage: image_fixtures.py FOLDER", file=sys.stderr)
        return 2
    out = Writer(Path(sys.argv[1]))
    for part in (jpegs, pngs, operations, floats, orientations, folder):
        part(out)
    out.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

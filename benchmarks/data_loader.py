# SPDX-License-Identifier: BSD-3-Clause
"""Python's side of the data_loader benchmark: torch.utils.data.DataLoader, measured as loader_measurement.h does."""

import argparse
import gzip
import json
import os
import statistics
import time

import torch
from torch.utils.data import DataLoader, Dataset

COMPUTING, AHEAD, ALL_COMPUTING, SETTING_UP = 2e-3, 1.5, 3, 0.2  # as loader_measurement.h


def read_idx(path, header):
    with gzip.open(path) as file:
        return torch.frombuffer(bytearray(file.read()[header:]), dtype=torch.uint8)


class FashionMnist(Dataset):
    """Pixels stay uint8 in memory, as LibTorch's and Lockstep's datasets keep them."""

    def __init__(self, root):
        self.images = read_idx(os.path.join(root, "train-images-idx3-ubyte.gz"), 16).view(-1, 1, 28, 28)
        self.labels = read_idx(os.path.join(root, "train-labels-idx1-ubyte.gz"), 8).long()

    def __getitem__(self, index):
        return self.images[index].float().div_(255), self.labels[index]

    def __len__(self):
        return len(self.labels)


class BatchedFashionMnist(FashionMnist):
    """A dataset that makes whole batches itself, which few do: one call of Python instead of one a sample."""

    def __getitems__(self, indices):
        picked = torch.as_tensor(indices)
        return self.images[picked].float().div_(255), self.labels[picked]


class SyntheticImages(Dataset):
    """As in loader_workloads.h."""

    def __getitem__(self, index):
        return torch.full((3, 224, 224), float(index % 251)), index

    def __len__(self):
        return 2560


def photographs(root, decoder):
    import torchvision
    from torchvision.transforms import v2

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    crop, flip = v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()
    if decoder == "io":  # libjpeg-turbo without Pillow in between
        steps = [crop, flip, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        load = torchvision.io.decode_image
        return torchvision.datasets.ImageFolder(root, v2.Compose(steps), loader=load)
    from torchvision import transforms

    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return torchvision.datasets.ImageFolder(root, transforms.Compose([*steps, transforms.Normalize(mean, std)]))


def make_dataset(options):
    if options.workload == "fmnist":
        return (BatchedFashionMnist if options.batched else FashionMnist)(options.root)
    if options.workload == "jpeg":
        return photographs(options.root, options.decoder)
    return SyntheticImages()


def children():
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(entry))
        except OSError:
            pass  # ended meanwhile
    return found


def kernel_figures(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        faults = int(file.read().rpartition(")")[2].split()[7])
    return faults, len(os.listdir(f"/proc/{pid}/fd"))


def private_mib(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) / 1024


def compute(seconds):
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        pass


def percentile(values, share):
    return sorted(values)[int(share * (len(values) - 1))] if values else 0


class Measurement:
    def __init__(self, dataset, options, workers):
        self.dataset, self.options, self.workers = dataset, options, workers
        self.before = time.perf_counter()
        self.loader = self.make_loader()
        self.figures = {"workers": workers}
        self.samples, self.last, self.batch_seconds = 0, self.before, 0

    def make_loader(self):
        return DataLoader(
            self.dataset,
            batch_size=self.options.batch,
            shuffle=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=(lambda batch: batch) if self.options.batched else None,
        )

    def run(self):
        self.first_epoch()
        self.first_batch_after_set_up()
        self.steady_epochs()
        if self.options.deliveries and self.workers:
            self.deliveries()
        return self.figures

    def first_epoch(self):
        targets, values = 0.0, 0.0
        is_first = True
        for data, target in self.loader:
            if is_first:
                self.figures["first_batch_ms"] = 1e3 * (time.perf_counter() - self.before)
                is_first = False
            targets += float(target.sum())
            values += float(data.sum(dtype=torch.double))
        self.figures.update(target_sum=targets, data_sum=values)

    def first_batch_after_set_up(self):
        loader = self.make_loader()
        compute(SETTING_UP)
        start = time.perf_counter()
        batches = iter(loader)
        next(batches)
        self.figures["first_batch_after_set_up_ms"] = 1e3 * (time.perf_counter() - start)

    def look(self, workers):
        rank = kernel_figures(os.getpid())
        others = [kernel_figures(pid) for pid in workers]
        return rank[0], sum(faults for faults, _ in others), rank[1] + sum(count for _, count in others)

    def steady_epochs(self):
        workers = children()
        self.one_epoch(None)
        before = self.look(workers)
        gaps, batches, self.samples = [], 0, 0
        start = self.last = time.perf_counter()
        while True:
            batches += self.one_epoch(gaps)
            seconds = time.perf_counter() - start
            if seconds >= self.options.seconds:
                break
        self.batch_seconds = seconds / batches
        after = self.look(workers)
        each = [(last - first) / batches for first, last in zip(before, after)]
        self.figures.update(
            samples_per_second=self.samples / seconds,
            batches=batches,
            epoch_gap_ms=statistics.median(gaps),
            rank_faults_a_batch=each[0],
            worker_faults_a_batch=each[1],
            descriptors_a_batch=each[2],
            worker_private_mib=max(map(private_mib, workers), default=0),
        )

    def one_epoch(self, gaps):
        batches = 0
        for _, target in self.loader:
            self.samples += len(target)
            now = time.perf_counter()
            if batches == 0 and gaps is not None:
                gaps.append(1e3 * (now - self.last))
            self.last = now
            batches += 1
        return batches

    def deliveries(self):
        """Batches that have long been ready, asked for by a program that computes in between."""
        times = []
        computing = max(COMPUTING, AHEAD * self.batch_seconds)
        size = len(self.loader)
        position = size
        while len(times) < min(self.options.deliveries, int(ALL_COMPUTING / computing)):
            if position == size:
                batches = iter(self.loader)
                batch = next(batches)
                position = 1
            compute(computing)
            del batch
            start = time.perf_counter()
            batch = next(batches)
            times.append(1e6 * (time.perf_counter() - start))
            position += 1
        self.figures.update(delivery_us_p50=percentile(times, 0.5), delivery_us_p99=percentile(times, 0.99))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=["fmnist", "synthetic", "jpeg"], required=True)
    parser.add_argument("--root")
    parser.add_argument("--decoder", choices=["pillow", "io"], default="pillow")
    parser.add_argument("--batched", action="store_true", help="fmnist: the dataset makes whole batches")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--deliveries", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = make_dataset(options)
    print(json.dumps([Measurement(dataset, options, workers).run() for workers in options.workers]))


if __name__ == "__main__":
    main()

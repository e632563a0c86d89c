# SPDX-License-Identifier: BSD-3-Clause
"""Which records the pictures show. benchmarks/README.md has the rules in words."""

import datetime
import json
import math
import os
from dataclasses import dataclass, field
from typing import Callable

# What every record has, and of which type.
FORM = {"benchmark": str, "date": str, "commit": str, "dirty": bool, "machine": dict, "command": str, "raw": dict}


MIN_ROUNDS = 5  # fewer are a trial, and show no spread


class RecordError(Exception):
    pass


@dataclass(frozen=True)
class Kind:
    """Records that are measured alike. `needs` are the paths into `raw` that the picture shows."""

    file: str
    fields: dict
    needs: list
    remake: str  # the command that makes such a record
    defaults: dict = field(default_factory=dict)  # of fields that old records do not have
    options: tuple = ()  # of the command: whoever gives one measures something else

    def fits(self, record):
        said = {**self.defaults, **record}
        words = record["command"].split()
        return all(said.get(name) == value for name, value in self.fields.items()) and not any(
            word.split("=")[0] in self.options for word in words
        )

    def __str__(self):
        return ", ".join(f"{name} {value}" for name, value in self.fields.items())


def refuse_constant(name):
    raise ValueError(f"{name} is no figure")


def moment(text, where):
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise RecordError(f"{where}: 'date' is none: {error}") from None
    if when.tzinfo is None:
        raise RecordError(f"{where}: 'date' has no time zone: {text}")
    return when.astimezone(datetime.timezone.utc)


def read_record(line, where):
    try:
        record = json.loads(line, parse_constant=refuse_constant)
    except ValueError as error:
        raise RecordError(f"{where}: this is no record: {error}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{where}: this is no record: expected an object")
    for name, kind in FORM.items():
        if not isinstance(record.get(name), kind):
            raise RecordError(f"{where}: this is no record: it has no '{name}' of type {kind.__name__}")
    for name in ("cpu", "cores"):
        if name not in record["machine"]:
            raise RecordError(f"{where}: 'machine' has no '{name}'")
    record["when"] = moment(record["date"], where)
    record["where"] = where
    return record


def read_records(path):
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from None
    return [read_record(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def missing(record, kind):
    """What the record lacks first, as text; None when it has all."""
    for path in kind.needs:
        place = record["raw"]
        for name in path:
            place = place.get(name) if isinstance(place, dict) else None
        if place is None:
            return "/".join(path)
        if isinstance(place, list) and len(place) < MIN_ROUNDS:
            return f"rounds of {'/'.join(path)}: it has {len(place)} instead of at least {MIN_ROUNDS}"
    return None


def newest(folder, kind):
    """By date, not by line: records of two machines may have been put together. At equal dates, the later line."""
    path = os.path.join(folder, kind.file)
    records = sorted((r for r in read_records(path) if kind.fits(r)), key=lambda record: record["when"])
    whole = [record for record in records if missing(record, kind) is None]
    if whole:
        return whole[-1]
    hint = f"`{kind.remake}` makes one"
    if records:
        where, lacks = records[-1]["where"], missing(records[-1], kind)
        raise RecordError(f"{where}: no record of ({kind}) is complete; this one, the newest, lacks {lacks}; {hint}")
    raise RecordError(f"{path}: there is no record of ({kind}); {hint}")


def figures(record, values, name):
    """Positive numbers, one a round."""
    if not isinstance(values, list) or not values:
        raise RecordError(f"{record['where']}: {name} has no rounds")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise RecordError(f"{record['where']}: {name} must be positive numbers, it has {value!r}")
    return [float(value) for value in values]


def read(record, name, take: Callable):
    """What `take` finds in the raw figures; another form of them is the record's mistake, not ours."""
    try:
        return figures(record, take(record["raw"]), name)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RecordError(f"{record['where']}: {name} has another form than its benchmark writes: {error!r}") from None


def origin(record):
    """When, where and from which code."""
    machine = record["machine"]
    code = f"commit {record['commit'][:7]}" + (" with changes" if record["dirty"] else "")
    return f"{machine['cpu']}, {machine['cores']} cores, {record['when']:%Y-%m-%d}, {code}"


def versions(record):
    names = {"torch": "torch", "mpi": "", "torchvision": "torchvision"}
    said = record.get("versions") or {}
    return ", ".join(f"{shown} {said[name]}".strip() for name, shown in names.items() if name in said)

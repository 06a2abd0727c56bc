"""Streams of frames, as a client wrote them down."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """One event of a stream; `id` is (seq, k)."""

    id: tuple
    name: str
    data: dict


def parse(text):
    """The whole frames of a stream; of one that broke off in the middle, nothing."""
    return [frame for frame in map(one, text.split("\n\n")[:-1]) if frame]


def one(text):
    fields = dict(
        line.split(": ", 1) for line in text.split("\n") if ": " in line and line[0] != ":"
    )
    if "event" not in fields:
        return None
    id = tuple(map(int, fields["id"].split("."))) if "id" in fields else None
    return Frame(id, fields["event"], json.loads(fields["data"]))


def check_ids(frames):
    """Nothing is missing and nothing doubled: every frame follows the one before directly, or
    begins the next durable event."""
    for before, frame in zip(frames, frames[1:], strict=False):
        (seq, k), (was, at) = frame.id, before.id
        follows = (seq == was and k == at + 1) or (seq > was and k == 0)
        assert follows, f"{frame} follows {before}"

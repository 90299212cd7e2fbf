"""What a decoding process is asked for: how long a video is, how large a clip would be, and clips.

With a frame store, a clip that it holds is not decoded, and a clip that was decoded is put into it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vital_eval.clip import Clip
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.content_hash import ContentHashes
from vital_eval.video.decoder import Decoder
from vital_eval.video.frame_store import Entry, FrameStore, StoreSettings, StoreWriter
from vital_eval.video.resize import target_size
from vital_eval.video.resolve import resolve_video
from vital_eval.video.sampling import choose_frames
from vital_eval.video.source import ClipSource

#: Form of what is kept; to be raised when the meaning of an entry changes, code that makes pixels apart.
_STORE_VERSION = 1
_CLIP = "clip"
#: Whose versions may move a pixel or a time.
_PACKAGES = ("av", "decord", "numpy", "pillow", "torchcodec")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a video reaches.

    Attributes:
        duration: seconds, as probed.
        last_frame: time of the last frame, seconds.
    """

    duration: float
    last_frame: float


@dataclass(frozen=True, slots=True)
class _Outline:
    """What of a video's index is needed to say how large a clip would be."""

    duration: float
    height: int
    width: int
    frame_times: tuple[float, ...]


class Store:
    """The frame store as all readers of one process share it.

    Args:
        settings: where, and how much.
        tell: is given one line about a fault of the store, possibly many times.
        count: is told of every clip whether it was taken from the store.
    """

    def __init__(
        self, settings: StoreSettings, tell: Callable[[str], None], count: Callable[[bool], None] = lambda taken: None
    ) -> None:
        self.count = count
        self.frames = FrameStore(settings, tell)
        self.frames.shrink()
        self.writer = StoreWriter(self.frames)
        self.hashes = ContentHashes(settings.folder / "hashes")

    def close(self) -> None:
        """Finish what is being written."""
        self.writer.close()


class VideoReader:
    """The videos below one folder, read through one decoder. Safe to use from several threads.

    Args:
        folder: data root; no name leads out of it.
        decoder: how files are read.
        store: where frames are kept, ``None`` keeps none.
    """

    def __init__(self, folder: Path, decoder: Decoder, store: Store | None = None) -> None:
        self._folder = folder
        self._source = ClipSource(folder, decoder)
        self._store = store
        self._recipe = recipe_of(decoder) if store is not None else None

    def extent(self, video: str) -> Extent:
        """Return how far a video reaches.

        Raises:
            MediaError: as :meth:`~vital_eval.video.source.ClipSource.probe`.
        """
        outline = self._outline(video)
        return Extent(outline.duration, outline.frame_times[-1])

    def weigh(self, video: str, view: View, spatial_factor: int) -> int:
        """Return the bytes of the whole-video clip under a view; nothing is decoded for it.

        Raises:
            MediaError: as :meth:`~vital_eval.video.source.ClipSource.probe`.
        """
        outline = self._outline(video)
        height, width = target_size(outline.height, outline.width, view, spatial_factor)
        return len(choose_frames(outline.frame_times, None, view)) * height * width * 3

    def read(self, video: str, span: Span | None, view: View, spatial_factor: int) -> Clip:
        """Read a clip; see :meth:`~vital_eval.video.source.ClipSource.read`.

        Raises:
            MediaError: as there.
        """
        asked = None if span is None else [span.start, span.end]
        recipe = {"kind": _CLIP, "span": asked, "view": dataclasses.asdict(view), "factor": spatial_factor}
        read = partial(self._source.read, video, span, view, spatial_factor)
        return self._kept(video, recipe, read, _clip_entry, _clip)

    def _outline(self, video: str) -> _Outline:
        return self._kept(video, {"kind": "outline"}, partial(self._probe, video), _outline_entry, _outline)

    def _probe(self, video: str) -> _Outline:
        info = self._source.probe(video)
        return _Outline(info.duration, info.height, info.width, info.frame_times)

    def _kept(
        self,
        video: str,
        recipe: dict[str, Any],
        make: Callable[[], T],
        pack: Callable[[T], Entry],
        unpack: Callable[[Entry], T],
    ) -> T:
        """Take something from the store, or make it and put it there."""
        store = self._store
        if store is None or self._recipe is None:
            return make()
        path = resolve_video(self._folder, video)
        content = _content(store.hashes, path)
        if content is None:
            return make()
        key = _key({"version": _STORE_VERSION, "video": content, **self._recipe, **recipe})
        entry = store.frames.get(key)
        made = make() if entry is None else unpack(entry)
        if recipe["kind"] == _CLIP:
            store.count(entry is not None)
        # A file that was replaced while it was decoded must not leave its frames under the old one's name.
        if entry is None and _content(store.hashes, path) == content:
            store.writer.put(key, pack(made))
        return made


def recipe_of(decoder: Decoder) -> dict[str, Any] | None:
    """Return what decides the pixels besides the video and the view.

    The code itself is part of it: whoever changes the way frames are chosen, decoded or resized need not remember to
    change a number, too. A decoder without readable code gives ``None``, and its frames are not kept.
    """
    own = _files_of(type(decoder))
    if not own:
        return None
    code = hashlib.sha256()
    for file in (*sorted(Path(__file__).parent.glob("*.py")), *own):
        code.update(hashlib.sha256(file.read_bytes()).digest())
    return {
        "decoder": decoder.name,
        "code": code.hexdigest(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "machine": platform.machine(),  # FFmpeg scales and converts with other instructions on another
    }


def _files_of(kind: type) -> tuple[Path, ...]:
    """Return the source files of a class and of those it is derived from, where they can be read.

    By way of their functions, because plugins are not registered as modules.
    """
    functions = (each for base in kind.__mro__ for each in vars(base).values() if inspect.isfunction(each))
    files = {Path(function.__code__.co_filename) for function in functions}
    return tuple(sorted(file for file in files if file.is_file()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _content(hashes: ContentHashes, path: Path) -> str | None:
    try:
        return hashes.of(path)
    except OSError:  # reading it says better what is wrong
        return None


def _key(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _clip_entry(clip: Clip) -> Entry:
    return Entry({"timestamps": clip.timestamps, "span": clip.span.as_window()}, clip.frames)


def _clip(entry: Entry) -> Clip:
    start, end = entry.facts["span"]
    return Clip(entry.array, tuple(entry.facts["timestamps"]), Span(start, end))


def _outline_entry(outline: _Outline) -> Entry:
    facts = {"duration": outline.duration, "height": outline.height, "width": outline.width}
    return Entry(facts, np.array(outline.frame_times, dtype=np.float64))


def _outline(entry: Entry) -> _Outline:
    facts = entry.facts
    return _Outline(facts["duration"], facts["height"], facts["width"], tuple(entry.array.tolist()))

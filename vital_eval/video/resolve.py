"""From the name an annotation file gives to a file inside the data root, and never outside it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from vital_eval.errors import MediaError

#: Extensions that may stand in for each other: the same video is shared as another file type by another mirror.
VIDEO_EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov")


def resolve_video(folder: Path, name: str) -> Path:
    """Find a video by its name, inside ``folder`` only.

    A name is a relative path with ``/`` between its parts. Only a known video extension at its very end is
    ever exchanged; dots elsewhere belong to the name (ReXTime has ``9c_w8HU3hqc_210.0_360.0``). If the file
    is not there, the same name with another extension of :data:`VIDEO_EXTENSIONS` is taken, in that order.

    Args:
        folder: the data root. Symbolic links inside it are followed as long as they stay inside it.
        name: untrusted; it comes from an annotation file.

    Returns:
        The real path of an existing file or folder entry below the real path of ``folder``.

    Raises:
        MediaError: ``outside-root`` if the name points, or a link leads, out of the root (or is no relative
            path at all); ``missing`` if there is no such file, with the path that was looked for.
    """
    _refuse_escape(name)
    root = folder.resolve()
    wanted = root.joinpath(*PurePosixPath(name).parts)
    for candidate in (wanted, *_siblings(wanted)):
        try:
            found = candidate.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, RuntimeError) as error:  # a loop of links, a name too long, a folder without permission
            raise MediaError("missing", f"video {name!r} cannot be reached under {root}: {error}") from error
        if not found.is_relative_to(root):
            raise MediaError("outside-root", f"video {name!r} is a link out of {root}", "copy the file into the root")
        return found
    raise MediaError("missing", f"no video at {wanted}", f"other extensions tried: {' '.join(VIDEO_EXTENSIONS)}")


def _refuse_escape(name: str) -> None:
    """Refuse every name that is not plainly a path below the root on any system."""
    windows = PureWindowsPath(name)
    if (
        not name.strip()
        or "\0" in name
        or "\\" in name
        or windows.drive
        or windows.is_absolute()
        or PurePosixPath(name).is_absolute()
        or ".." in name.split("/")
        or not PurePosixPath(name).parts
    ):
        raise MediaError(
            "outside-root", f"{name!r} is not a relative path below the data root", "use a name such as a/b.mp4"
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise MediaError("outside-root", f"{name!r} is not valid text for a path") from error


def _siblings(wanted: Path) -> tuple[Path, ...]:
    """Return the same path with each other known extension; a name without one gets each appended."""
    name = wanted.name
    extension = next((e for e in VIDEO_EXTENSIONS if name.lower().endswith(e) and len(name) > len(e)), "")
    stem = name[: len(name) - len(extension)]
    return tuple(wanted.with_name(stem + e) for e in VIDEO_EXTENSIONS if stem + e != name)

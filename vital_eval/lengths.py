"""Is a video file as long as its annotation says?"""

from __future__ import annotations

#: A file whose length differs from the annotated one by more than this is probably another cut, or incomplete.
TOLERANCE_SECONDS = 1.0


def differ(annotated: float | None, file_duration: float | None) -> bool:
    """Tell whether a file is too long or too short for its annotation.

    Args:
        annotated: seconds; ``None`` if the annotation does not say.
        file_duration: seconds, as probed; ``None`` if it was not.
    """
    return annotated is not None and file_duration is not None and abs(annotated - file_duration) > TOLERANCE_SECONDS

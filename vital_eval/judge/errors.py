"""What can go wrong with a judge: for all questions at once, or for one."""

from __future__ import annotations

from vital_eval.errors import VitalError


class JudgeError(VitalError):
    """The judge cannot be used at all, or its verdicts cannot be read or do not belong together."""


class JudgeFailure(Exception):  # noqa: N818 - it is counted, not shown as an error
    """One question got no verdict. It is neither right nor wrong and stays owed.

    Args:
        kind: short word that reports count (``http 500``, ``timeout``, ``malformed reply`` ...).
        detail: what happened, one sentence.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        """Return kind and detail."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind

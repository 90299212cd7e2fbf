"""Fields of annotation records: what is no number is a fault that names file, record and field."""

from __future__ import annotations

import pytest

from vital_eval.errors import DataError
from vital_eval.tasks.annotations import Record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "3", None])
def test_what_is_no_finite_number_is_a_fault(value: object) -> None:
    with pytest.raises(DataError, match=r"val\.json.*start"):
        Record({"start": value}, "val.json, record 3").number("start")


def test_numbers_are_read() -> None:
    assert Record({"start": 3}, "val.json").number("start") == 3.0

"""One figure taken apart by what is known about the samples: per duration, per subject, per type of question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vital_eval.statistics.means import Estimate
from vital_eval.summary import Item, estimate_items


@dataclass(frozen=True, slots=True)
class Part:
    """A figure over the samples that share one attribute value.

    Attributes:
        attribute: name of the attribute (``duration_category``).
        value: its value (``ultra-short``).
        estimate: the figure over these samples only, estimated as the whole is.
    """

    attribute: str
    value: str
    estimate: Estimate


def break_down(items: Sequence[Item], attributes: Mapping[str, Mapping[str, str]]) -> tuple[Part, ...]:
    """Estimate a figure within every value of every attribute.

    Args:
        items: what the figure averages (see :func:`vital_eval.summary.metric_items`).
        attributes: sample id to the sample's attributes; samples without any are left out.

    Returns:
        Parts in the order in which attributes and values first occur; values that hold no item are left out.
    """
    groups: defaultdict[str, defaultdict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        for name, value in attributes.get(item.sample_id, {}).items():
            groups[name][value].append(item)
    return tuple(
        Part(name, value, estimate_items(inside)) for name, values in groups.items() for value, inside in values.items()
    )

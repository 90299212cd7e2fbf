"""What each view of a nano video allows at best, so that nano's scores are read for what they are.

Prints the mean IoU of three oracles that read the frames of fresh held-out videos without error: the bracket around the
event in the sparse view (what nano's text modes are taught to say), the middle between the last pair without and the
first pair with the event (the best that the sparse view allows), and the bracket in the clip of a tool call on the
first bracket (what nano's tool mode is taught to say).
"""

from __future__ import annotations

from collections.abc import Sequence

from vital_eval.engines.pixels import patch_times
from vital_eval.metrics.iou import hull_iou
from vital_eval.nano.world import Event, NanoVideo, VideoPlan, World, generator, make_video
from vital_eval.presets import NANO_VIEW
from vital_eval.span import Span, Window
from vital_eval.training.nano_dialogues import NotVisibleError, Scene, look

VIDEOS = 150
PLANS = {"short": VideoPlan(24.0, 40.0), "medium": VideoPlan(40.0, 90.0), "long": VideoPlan(80.0, 120.0)}


def middle(scene: Scene, event: Event) -> Window:
    """Return the span whose bounds lie midway between neighbouring pairs with and without the event."""
    times = patch_times(scene.clip, 2)
    seen = [index for index, events in enumerate(scene.shown) if event in events]
    first, last = seen[0], seen[-1]
    start = (times[max(first - 1, 0)] + times[first]) / 2
    return start, (times[last] + times[min(last + 1, len(times) - 1)]) / 2


def oracles(video: NanoVideo, event: Event) -> tuple[float, float, float]:
    """Return the IoU of the three oracles for one event."""
    wide = look(video, None, NANO_VIEW, None)
    first = wide.sightings(event.colour)[0]
    bracket = (float(first.start), float(first.end))
    close = look(video, Span(bracket[0], min(bracket[1], video.duration)), NANO_VIEW, None)
    second = close.sightings(event.colour)[0]
    spans: Sequence[Window] = (bracket, middle(wide, event), (float(second.start), float(second.end)))
    found = tuple(hull_iou(span, event.window) for span in spans)
    return found[0], found[1], found[2]


def main() -> None:
    """Print the table."""
    print(f"{'plan':<8} {'n':>4}  sparse bracket  sparse middle  tool bracket")
    for name, plan in PLANS.items():
        rows = []
        for seed in range(VIDEOS):
            video = make_video(plan, generator(World.TEST, 9_999, seed))
            for event in video.events:
                try:
                    rows.append(oracles(video, event))
                except NotVisibleError:
                    continue
        means = [100 * sum(row[column] for row in rows) / len(rows) for column in range(3)]
        print(f"{name:<8} {len(rows):>4}  {means[0]:>14.1f}  {means[1]:>13.1f}  {means[2]:>12.1f}")


if __name__ == "__main__":
    main()

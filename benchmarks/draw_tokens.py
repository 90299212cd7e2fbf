"""What choosing the next tokens costs, beside the way it was done before and beside transformers.

Run ``python benchmarks/draw_tokens.py`` where vital-eval is installed; ``--device cuda`` on a GPU. A line is one token
for every row of a batch over a vocabulary of Qwen's size: the median and the least milliseconds, and the ratio of the
median to ours. The peers:

* row by row: each row copied to the host, softmax and multinomial there, with a generator of its own (ours until then);
* transformers: its own logits processors, softmax and one multinomial, as in its ``generate``. It has one generator for
  the whole batch, so what a row draws depends on its neighbours; ours does not.

Every way's draws are compared with the probabilities that they were drawn from.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from vital_eval.engines.sampling import choose_tokens
from vital_eval.protocol import Sampling

WORDS = 152_064
BATCHES = (1, 8, 32)

#: Logits, settings, generators to a token a row.
Chooser = Callable[[torch.Tensor, Sequence[Sampling], Sequence[torch.Generator]], list[int]]


def ours(logits: torch.Tensor, settings: Sequence[Sampling], generators: Sequence[torch.Generator]) -> list[int]:
    """Choose as the hf engine does."""
    return choose_tokens(logits, torch.empty(0), settings, generators)


def row_by_row(logits: torch.Tensor, settings: Sequence[Sampling], generators: Sequence[torch.Generator]) -> list[int]:
    """Choose on the host, one row after another."""
    return [
        _multinomial(values, entry, generator)
        for values, entry, generator in zip(logits.cpu(), settings, generators, strict=True)
    ]


def _multinomial(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, indices = probabilities.sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, indices, ordered.masked_fill(beyond, 0.0))
    return int(torch.multinomial(probabilities, 1, generator=generator))


def transformers_way(
    logits: torch.Tensor, settings: Sequence[Sampling], generators: Sequence[torch.Generator]
) -> list[int]:
    """Choose as transformers does, which knows one setting for all rows."""
    del generators
    processors = LogitsProcessorList([TemperatureLogitsWarper(settings[0].temperature)])
    if settings[0].top_p < 1:
        processors.append(TopPLogitsWarper(settings[0].top_p))
    scores = processors(torch.empty((len(logits), 0), dtype=torch.long, device=logits.device), logits)
    chosen: list[int] = torch.multinomial(torch.softmax(scores, dim=-1), 1).squeeze(-1).tolist()
    return chosen


def milliseconds(way: Chooser, logits: torch.Tensor, setting: Sampling, rounds: int) -> list[float]:
    """Return the time of every round; each ends when the tokens are on the host."""
    settings = [setting] * len(logits)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(logits))]
    spent = []
    for _ in range(rounds + 2):
        if logits.device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        way(logits, settings, generators)
        spent.append(1000 * (time.perf_counter() - begin))
    return spent[2:]


def distance(way: Chooser, setting: Sampling, device: str, draws: int = 4096) -> tuple[float, float]:
    """Return how far the shares of drawn tokens lie from their probabilities (half the L1 distance), and what is due.

    What is due is the mean distance of as many independent draws, roughly: sum of sqrt(p (1 - p) / (2 pi n)).
    """
    logits = torch.randn(64, generator=torch.Generator().manual_seed(1)) * 2
    probabilities = torch.softmax(logits / setting.temperature, -1)
    if setting.top_p < 1:
        ordered, indices = probabilities.sort(descending=True)
        probabilities[indices[ordered.cumsum(-1) - ordered >= setting.top_p]] = 0
        probabilities /= probabilities.sum()
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    torch.manual_seed(0)
    found = way(logits.expand(draws, -1).contiguous().to(device), [setting] * draws, generators)
    shares = torch.bincount(torch.tensor(found), minlength=64) / draws
    due = (probabilities * (1 - probabilities) / (2 * torch.pi * draws)).sqrt().sum()
    return float((shares - probabilities).abs().sum()) / 2, float(due)


def measure(device: str, words: int, rounds: int) -> None:
    """Measure and print."""
    ways: dict[str, Chooser] = {"ours": ours, "row by row": row_by_row, "transformers": transformers_way}
    print(f"{words} words, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for setting in (Sampling(temperature=1.0), Sampling(temperature=0.7, top_p=0.9)):
        print(f"temperature {setting.temperature}, top_p {setting.top_p}")
        for name, way in ways.items():
            print(
                "  {:<14} shares of draws off by {:.4f}, {:.4f} are due".format(name, *distance(way, setting, device))
            )
        for rows in BATCHES:
            logits = (torch.randn((rows, words), generator=torch.Generator().manual_seed(rows)) * 3).to(device)
            spent: dict[str, list[float]] = {name: [] for name in ways}
            # In turns, so that what else the machine does meets all of them.
            for _ in range(3):
                for name, way in ways.items():
                    spent[name] += milliseconds(way, logits, setting, rounds)
            middle = {name: statistics.median(values) for name, values in spent.items()}
            for name, values in spent.items():
                ratio = f"{middle[name] / middle['ours']:>7.2f} x ours"
                print(f"  batch {rows:>2} {name:<14} {middle[name]:>9.3f} ms (least {min(values):.3f}) {ratio}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--words", type=int, default=WORDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the host")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    measure(given.device, given.words, given.rounds)


if __name__ == "__main__":
    main()

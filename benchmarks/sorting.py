"""The relaxed sort over whole batches against the same network row by row and comparison by comparison.

    python benchmarks/sorting.py [--rows 256] [--length 11] [--json FILE]

Prints, for forward pass and for forward and backward pass, the median ratio of processor seconds over pairs in turns,
which holds on a busy machine too, and the largest difference of values and of gradients, relative to the largest of
them. Both sides are torch on one thread; exit code 1 if a ratio is below 10 or a difference above 1e-5.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tacit.nn import relaxed_sort

FASTER, TOLERANCE, PAIRS = 10.0, 1e-5, 3


def row_by_row(x: Tensor, steepness: float = 10.0) -> tuple[Tensor, Tensor]:
    """Odd-even network with Cauchy swaps, one comparison at a time."""
    values, permutations = [], []
    for row in x:
        places, shares = list(row), list(torch.eye(len(row)))
        for layer in range(len(row)):
            for i in range(layer % 2, len(row) - 1, 2):
                stays = torch.atan(steepness * (places[i + 1] - places[i])) / math.pi + 0.5
                for kept in (places, shares):
                    low, high = kept[i], kept[i + 1]
                    kept[i], kept[i + 1] = stays * low + (1 - stays) * high, (1 - stays) * low + stays * high
        values.append(torch.stack(places))
        permutations.append(torch.stack(shares))
    return torch.stack(values), torch.stack(permutations)


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Theirs over ours; ours is timed over ten calls, since one is short."""
    ours()
    return statistics.median(
        seconds(theirs) / (seconds(lambda: [ours() for _ in range(10)]) / 10) for _ in range(PAIRS)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--length", type=int, default=11, help="GroCo with two views sorts 11")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(options.rows, options.length, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(options.length, options.length, generator=torch.Generator().manual_seed(1))

    def both_ways(sort: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x.grad = None
        values, permutation = sort(x)
        (values.square().sum() + (permutation * weights).sum()).backward()
        return values.detach(), x.grad

    sides = zip(both_ways(relaxed_sort), both_ways(row_by_row), strict=True)
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in sides)
    found = {
        "rows": options.rows,
        "length": options.length,
        "forward": round(ratio(lambda: relaxed_sort(x), lambda: row_by_row(x)), 1),
        "forward and backward": round(ratio(lambda: both_ways(relaxed_sort), lambda: both_ways(row_by_row)), 1),
        "largest difference": apart,
    }
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if min(found["forward"], found["forward and backward"]) >= FASTER and apart <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())

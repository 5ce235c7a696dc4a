"""What a few runs can say: an interval for a rate, and whether two rates differ."""

from __future__ import annotations

from math import comb, sqrt


def wilson(hits: int, runs: int) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson, 1927); of no runs, all there is."""
    if not runs:
        return 0.0, 1.0
    z = 1.959964
    rate = hits / runs
    centre = rate + z * z / (2 * runs)
    half = z * sqrt(rate * (1 - rate) / runs + z * z / (4 * runs * runs))
    scale = 1 + z * z / runs
    low = 0.0 if hits == 0 else (centre - half) / scale
    high = 1.0 if hits == runs else (centre + half) / scale
    return low, high


def fewer(hits: int, runs: int, base_hits: int, base_runs: int) -> float:
    """How likely it is to see no more than `hits` of `runs` if both rates were the same (Fisher's exact test, one-sided)."""
    total, all_hits = runs + base_runs, hits + base_hits
    ways = sum(
        comb(all_hits, k) * comb(total - all_hits, runs - k)
        for k in range(max(0, runs - (total - all_hits)), hits + 1)
    )
    return ways / comb(total, runs)


def runs_to_show(hits: int, runs: int, *, per_change: int, compared: int) -> int | None:
    """How many runs of each change it takes to tell a change that ends it from chance (1 in 20, shared among `compared`),
    if it goes on as in `runs`, which were of `per_change` rows; None if more than 1000."""
    for each in range(2, 1001):
        base = each * per_change
        if fewer(0, each, hits * base // runs, base) < 0.05 / compared:
            return each
    return None


def largest_unseen(runs: int) -> float:
    """The rate at which something that was seen in none of `runs` would have been seen with 95 % probability."""
    return 1 - 0.05 ** (1 / runs) if runs else 1.0

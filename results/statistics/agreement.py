"""Agreement of two routings of the same tokens whose experts are numbered differently.

The experts of two seeds have no common numbering, so they are matched one to one such that the
agreement is largest. Matching finds some agreement in anything: more with more experts and fewer
tokens. It is therefore compared with chance: the same matching after permuting the tokens of one
routing, which preserves only how often each routing uses each expert.
"""

from dataclasses import dataclass

import numpy as np

PERMUTATIONS = 10


@dataclass(frozen=True)
class Agreement:
    """How far two routings agree after matching.

    Attributes:
        matched: mean over tokens of Σ_e min(p_e, q_π(e)), for the best one-to-one π; 1 if equal.
        chance: the mean of `matched` over permutations of the tokens.
    """

    matched: float
    chance: float

    @property
    def adjusted(self) -> float | None:
        """(matched − chance) / (1 − chance): 0 by chance, 1 if equal; None if chance is 1."""
        return None if self.chance > 1 - 1e-9 else (self.matched - self.chance) / (1 - self.chance)


def agreement(one: np.ndarray, other: np.ndarray, seed: int = 0) -> Agreement:
    """Match the experts of two routings, and compare their agreement with chance.

    Args:
        one, other: (tokens, 1 + E) shares that sum to 1 for each token; the first column is "no
            expert", which is matched to itself.

    Raises:
        ValueError: the shapes differ, or there are no tokens.
    """
    if one.shape != other.shape or not len(one):
        raise ValueError(f"no routings of the same tokens and experts: {one.shape}, {other.shape}")
    exact = (each.astype(float) for each in (one, other))
    p, q = (each / each.sum(1, keepdims=True) for each in exact)  # may be stored as float16
    generator = np.random.default_rng(seed)
    by_chance = [matched(p, generator.permutation(q)) for _ in range(PERMUTATIONS)]
    return Agreement(matched(p, q), float(np.mean(by_chance)))


def matched(p: np.ndarray, q: np.ndarray) -> float:
    """Return the largest mean overlap that any one-to-one matching of the experts reaches."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    overlaps = np.stack([np.minimum(column[:, None], q[:, 1:]).mean(0) for column in p[:, 1:].T])
    best = overlaps[linear_sum_assignment(overlaps, maximize=True)].sum()
    return float(best + np.minimum(p[:, 0], q[:, 0]).mean())

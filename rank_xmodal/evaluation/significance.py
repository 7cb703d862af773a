"""Is a difference more than luck? The paired randomisation test over queries, and Holm's correction for many."""

from __future__ import annotations

import numpy as np

RESAMPLES = 9_999
_MOST_SEEDS = 64  # a mean of hits over more runs than these is not looked for
_RESOLVED = 1e-14  # below it the sums of the exact test are rounding errors


def paired_p(values: np.ndarray, against: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0) -> float:
    """Return the two-sided p-value of the mean difference of two rankings of the same queries.

    Under the null hypothesis either ranking could have had either values of a group of queries that belong together:
    the signs of the groups' differences are drawn at random (Fisher's randomisation test; Smucker et al. 2007,
    doi:10.1145/1321440.1321528). For hits and misses and their means over seeds the share of sign patterns is exact: of
    9,999 drawn ones no p falls below 0.0002, too coarse to correct for many comparisons. For other metrics all patterns
    are gone through where there are at most 9,999 of them, else 9,999 are drawn.

    Parameters
    ----------
    values, against : ndarray (Q,)
        A metric per query; of several seeds, the mean over them.
    groups : ndarray (Q,), int, or None
        Which queries are no independent witnesses, as the captions of an image: they flip together. None for queries
        that have nothing in common; five captions an image taken so reject a true null hypothesis in 8 to 11 % of
        cases at the level of 5 %.
    seed : int
        Of the drawn patterns.

    Raises
    ------
    ValueError
        If the two are not of the same queries' number, or one holds a NaN or an infinite value.
    """
    values, against = np.asarray(values, dtype=float), np.asarray(against, dtype=float)
    if values.shape != against.shape or values.ndim != 1:
        raise ValueError(f"values {values.shape} and against {against.shape} must be of the same queries, (Q,) both.")
    if not (np.isfinite(values).all() and np.isfinite(against).all()):
        raise ValueError("values and against must be finite: a query without a value can't be paired.")
    difference = values - against
    if len(difference) == 0:
        return 1.0
    steps = _steps(difference)
    sums = grouped(difference if steps is None else steps, groups)
    sums = sums[sums != 0]  # a difference of 0 has no sign: it changes no pattern's mean
    if len(sums) < 2:
        return 1.0
    if steps is not None:
        return _exact(sums.astype(np.int64))
    from scipy.stats import permutation_test  # half a second to import

    found = permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(sums)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def grouped(difference: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return the sum of each group's differences, (Q,) -> (G,); of each query's own without groups.

    Raises
    ------
    ValueError
        If there is not one group for each query.
    """
    if groups is None:
        return difference
    groups = np.asarray(groups)
    if groups.shape != difference.shape:
        raise ValueError(f"groups {groups.shape} must be one for each of the {difference.shape} queries.")
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=difference)


def standard_error(difference: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the standard error of the mean of paired differences (Q,), those of a group not independent.

    The sandwich estimator for clusters (Liang and Zeger 1986, Biometrika 73:13); without groups the usual one. NaN
    of a single group, which tells nothing.
    """
    count = len(difference)
    sums = grouped(np.asarray(difference, dtype=float) - np.mean(difference), groups)
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1)) / count)


def _steps(difference: np.ndarray) -> np.ndarray | None:
    """Return differences of means of hits over s runs as the integers that s makes of them; None for other metrics."""
    if np.abs(difference).max() > 1:
        return None
    for runs in range(1, _MOST_SEEDS + 1):
        steps = np.rint(runs * difference)
        if np.abs(steps - runs * difference).max() < 1e-9:
            return steps.astype(np.int64)
    return None


def _exact(steps: np.ndarray) -> float:
    """Return the share of sign patterns whose sum is at least as far from 0 as that of `steps`, (n,) integers.

    The sum of one ±v has the characteristic function cos(v t), that of all the product: its Fourier transform is the
    distribution. Of steps ±1 alone that is the binomial one, and the test the sign test.
    """
    furthest = int(np.abs(steps).sum())
    size = 2 * furthest + 1
    angle = 2 * np.pi * np.arange(furthest + 1) / size
    product = np.ones(len(angle))
    for value, count in zip(*np.unique(np.abs(steps), return_counts=True), strict=True):
        product *= np.cos(angle * value) ** int(count)
    share = np.fft.irfft(product, n=size)  # of the sums 0, 1, ..., furthest, -furthest, ..., -1
    at = abs(int(steps.sum()))
    p = float(share.sum()) if at == 0 else 2 * float(share[at : furthest + 1].sum())
    return min(1.0, max(p, _RESOLVED))


def holm(p: np.ndarray) -> np.ndarray:
    """Return the p-values of one family, adjusted so that the chance of even one false alarm stays at the level.

    Holm's step-down (1979, Scandinavian Journal of Statistics 6:65): the smallest of m is multiplied by m, the next by
    m - 1 and so on; none falls below one that was smaller, none exceeds 1. It needs no independence.

    Parameters
    ----------
    p : ndarray (m,)

    Raises
    ------
    ValueError
        If one is not between 0 and 1: a NaN must not count as a test.
    """
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p must be a row of numbers from 0 to 1, not {p}.")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted

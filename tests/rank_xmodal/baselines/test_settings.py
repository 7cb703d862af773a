"""Settings out of their range are met when a baseline is made, by name."""

import numpy as np
import pytest

from rank_xmodal.baselines import CCA, CMPM, DCCA, VSEPP
from rank_xmodal.errors import UserError

COUNTS = [
    (CCA, "components", 1),
    (DCCA, "width", 1),
    (DCCA, "hidden", 1),
    (DCCA, "layers", 0),
    *((baseline, "batch_size", 1) for baseline in (DCCA, CMPM, VSEPP)),
    *((baseline, "epochs", 0) for baseline in (DCCA, CMPM, VSEPP)),
    *((baseline, "drop_after", 0) for baseline in (CMPM, VSEPP)),
]
POSITIVE = [(CMPM, "scale"), *((baseline, "lr") for baseline in (DCCA, CMPM, VSEPP))]
FROM_ZERO = [
    (CCA, "ridge"),
    (CCA, "power"),
    (VSEPP, "margin"),
    *((DCCA, name) for name in ("r1", "r2", "ridge", "power", "weight_decay")),
]


@pytest.mark.parametrize(("baseline", "name", "least"), COUNTS)
def test_counts(baseline, name, least):
    for value in (least - 1, -3, 2.5, "many", True):
        with pytest.raises(UserError, match=rf"{baseline.__name__}: {name}=.*; pass an integer of at least {least}\."):
            baseline(**{name: value})
    assert getattr(baseline(**{name: np.int64(least)}), name) == least


@pytest.mark.parametrize(("baseline", "name"), POSITIVE)
def test_positive_numbers(baseline, name):
    for value in (0, -1.0, np.nan, np.inf, "fast", True, None):
        with pytest.raises(UserError, match=rf"{baseline.__name__}: {name}=.*; pass a finite number above 0\."):
            baseline(**{name: value})
    assert getattr(baseline(**{name: np.float32(0.5)}), name) == 0.5


@pytest.mark.parametrize(("baseline", "name"), FROM_ZERO)
def test_numbers_from_zero(baseline, name):
    for value in (-0.1, np.nan, np.inf, "some", True):
        with pytest.raises(UserError, match=rf"{baseline.__name__}: {name}=.*; pass a finite number of at least 0\."):
            baseline(**{name: value})
    assert getattr(baseline(**{name: 0}), name) == 0

import numpy as np
import pytest

from evaluation import PROTOCOLS, Protocol


def test_the_key_is_the_name():
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())
    assert all(protocol.source for protocol in PROTOCOLS.values())


def test_thresholds_are_those_of_the_official_evaluator_to_the_last_bit():
    assert PROTOCOLS["activitynet"].thresholds == tuple(np.linspace(0.5, 0.95, 10))
    assert PROTOCOLS["thumos14"].thresholds == tuple(np.linspace(0.3, 0.7, 5))
    assert PROTOCOLS["activitynet"].thresholds[8] < 0.9


@pytest.mark.parametrize("thresholds", [(), (0.0, 0.5), (0.5, 0.5), (0.7, 0.5), (0.5, 1.5), (float("nan"),)])
def test_thresholds_must_rise_within_bounds(thresholds):
    with pytest.raises(ValueError, match=r"^thresholds must rise within \(0, 1\], received "):
        Protocol("mine", thresholds, ">=", "all-point", "here")

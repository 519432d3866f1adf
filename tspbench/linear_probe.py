"""Linear probes: multinomial logistic regression on features, which tells what can be read off them in a straight line.

Decided here:

- Features are standardized by the mean and standard deviation of what the probe is fitted on.
- It minimizes the mean cross-entropy plus `L2` / 2 times the sum of the squared weights (not of the biases), by L-BFGS.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Integers = NDArray[np.int64]

L2: Final = 1e-3
BLOCK: Final = 1 << 14  # clips that are worked on at once
GRADIENT: Final = 1e-5  # its largest entry, at which a probe is fitted
STEPS: Final = 1000
ROUNDING: Final = 1e-7  # of float32, relative to a number


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of C classes on (D,) features.

    Attributes:
        mean: of the features that it was fitted on, (D,).
        scale: their standard deviation, 1 where that is 0, (D,).
        weights: of standardized features, (D, C).
        bias: (C,).
        converged: whether the search ended because the gradient was small, not because it was too long.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    bias: Floats
    converged: bool

    def logits(self, features: Rows) -> Floats:
        """Return (N, C) float64 for (N, D) features."""
        logits: Floats = (features - self.mean) / self.scale @ self.weights + self.bias
        return logits


def fit_probe(features: Rows, labels: Integers, classes: int) -> Probe:
    """Fit a probe; needs room for one more copy of the features.

    Neighbouring features are so alike that plain L-BFGS takes thousands of steps. So it works on the principal
    components of the features, scaled to where the loss bends alike in every direction; the optimum is the same.

    Args:
        features: (N, D) float32, N of at least 1.
        labels: (N,) class indices below ``classes``.
        classes: C.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - what else is here does not need it, and it takes a while

    mean, scale = moments(features)
    axes, spread = _components(features, mean, scale)
    # A logit bends by p (1 - p) <= 1/4 of the features' spread, and by the penalty.
    stretch = 1 / np.sqrt(spread / 4 + L2)
    turn = axes * stretch
    components = np.empty_like(features)
    for part in _parts(len(labels)):
        components[part] = (features[part] - mean) / scale @ turn
    shape = len(stretch), classes
    penalty = L2 * np.square(stretch)[:, None]

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights, bias = flat[:-classes].reshape(shape), flat[-classes:]
        loss, slope_weights, slope_bias = 0.0, np.zeros(shape), np.zeros(classes)
        for part in _parts(len(labels)):
            its_loss, errors = _cross_entropy(components[part] @ weights.astype(np.float32) + bias, labels[part])
            loss += its_loss
            slope_weights += components[part].T @ errors.astype(np.float32)
            slope_bias += errors.sum(axis=0)
        slope = np.concatenate([(slope_weights / len(labels) + penalty * weights).ravel(), slope_bias / len(labels)])
        return loss / len(labels) + float((penalty * np.square(weights)).sum()) / 2, slope

    start = np.zeros((shape[0] + 1) * classes)
    options = {"gtol": GRADIENT, "ftol": 0.0, "maxiter": STEPS, "maxfun": 2 * STEPS}
    found: Any = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    # Rounding of float32 may end the search a little before the gradient is as small as wanted.
    converged = bool(np.abs(found.jac).max() <= 10 * GRADIENT)
    return Probe(mean, scale, turn @ found.x[:-classes].reshape(shape), found.x[-classes:], converged)


def _cross_entropy(logits: Floats, labels: Integers) -> tuple[float, Floats]:
    """Return the sum of the cross-entropies of (n, C) logits, and their (n, C) slopes."""
    logits = logits - logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    sums = odds.sum(axis=1, keepdims=True)
    true = np.arange(len(labels)), labels
    slopes = odds / sums
    slopes[true] -= 1
    return float((np.log(sums[:, 0]) - logits[true]).sum()), slopes


def _components(features: Rows, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Return the principal axes of standardized features as columns, (D, D), and the variance along each, (D,)."""
    products = np.zeros((len(mean), len(mean)))
    for part in _parts(len(features)):
        standardized = (features[part] - mean) / scale
        products += standardized.T @ standardized
    spread, axes = np.linalg.eigh(products / len(features))
    return axes, np.maximum(spread, 0.0)


def moments(features: Rows) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of (N, D) features, float64 (D,) each.

    The deviation is 1 where it is 0 but for rounding: such a feature says nothing, and divided by what rounding leaves
    it would be everything to a probe that meets another value.
    """
    mean = np.asarray(features.mean(axis=0, dtype=np.float64))
    squares = np.zeros_like(mean)
    for part in _parts(len(features)):
        squares += np.square(features[part] - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(features))
    return mean, np.where(deviation > ROUNDING * np.abs(mean), deviation, 1.0)


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, count, BLOCK))

"""Linear probes on cases worked by hand."""

import math

import numpy as np
import pytest

from tspbench.linear_probe import L2, fit_probe, moments


def test_moments_leave_a_constant_feature_its_scale():
    mean, scale = moments(np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32))
    assert (mean.tolist(), scale.tolist()) == ([2.0, 5.0], [1.0, 1.0])


def test_probe_of_one_feature_is_the_solution_of_its_equation():
    # Features -1 and 1, three of four of each side of their own class: by symmetry weights -w and w, bias 0, where
    # the slope of the loss, sigmoid(2 w) - 3/4 + L2 w, is 0.
    features = np.repeat(np.array([[-1.0], [1.0]], dtype=np.float32), 4, axis=0)
    probe = fit_probe(features, np.array([0, 0, 0, 1, 0, 1, 1, 1]), 2)
    w = probe.weights[0, 1]
    assert probe.converged
    assert probe.weights[0, 0] == pytest.approx(-w, abs=1e-4)
    assert 1 / (1 + math.exp(-2 * w)) - 3 / 4 + L2 * w == pytest.approx(0.0, abs=1e-4)
    assert w == pytest.approx(math.log(3) / 2, abs=0.01)


def test_probe_finds_classes_and_forgets_what_features_are_measured_in():
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=600)
    features = (generator.normal(size=(600, 5)) + 3 * np.eye(3, 5)[labels]).astype(np.float32)
    probe = fit_probe(features[:300], labels[:300], 3)
    accuracy = np.mean(probe.logits(features[300:]).argmax(axis=1) == labels[300:])
    assert probe.converged
    assert accuracy > 0.9
    other = fit_probe(features[:300] * 64 + 1024, labels[:300], 3)
    assert other.logits(features * 64 + 1024) == pytest.approx(probe.logits(features), abs=1e-2)


def test_probe_reads_more_clips_than_a_block(monkeypatch):
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=50)
    features = generator.normal(size=(50, 3)).astype(np.float32)
    whole = fit_probe(features, labels, 2)
    monkeypatch.setattr("tspbench.linear_probe.BLOCK", 7)
    assert fit_probe(features, labels, 2).weights == pytest.approx(whole.weights, abs=1e-4)


def test_a_feature_that_differs_by_rounding_alone_is_constant():
    features = np.zeros((7, 2), dtype=np.float32)
    features[:, 0] = 0.1
    features[3, 0] = np.nextafter(np.float32(0.1), np.float32(1))
    features[:, 1] = np.arange(7)
    assert moments(features)[1].tolist() == [1.0, 2.0]
    probe = fit_probe(features, np.array([0, 0, 0, 1, 0, 1, 1]), 2)
    # A clip that shows another value is not told by it.
    met = np.array([[0.1, 3.0], [0.2, 3.0]], dtype=np.float32)
    assert probe.logits(met)[0] == pytest.approx(probe.logits(met)[1], abs=1e-3)

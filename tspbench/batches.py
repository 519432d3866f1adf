"""The name under which stages still ask for whole videos as batches."""

from tspbench.feature_batches import FeatureVideos

__all__ = ["FeatureVideos"]

"""The harness: files, videos and people."""

__version__ = "0.7.0"

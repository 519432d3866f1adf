"""The harness: files, videos and people."""

__version__ = "0.3.0"

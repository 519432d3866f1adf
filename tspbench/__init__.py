"""The harness: files, videos and people."""

__version__ = "0.2.0"

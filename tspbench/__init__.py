"""The harness: files, videos and people."""

__version__ = "0.4.0"

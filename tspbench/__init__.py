"""The harness: files, videos and people."""

__version__ = "0.1.0"

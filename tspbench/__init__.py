"""The harness: files, videos and people; the only package that knows the other two."""

__version__ = "0.1.0"

"""The program `kansformer`: each command parses, calls the library's functions, and says what was done and where."""

from kansformer.cli.app import app, main

__all__ = ["app", "main"]

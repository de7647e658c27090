"""The version, in a module of its own that setup.cfg can read without importing anything."""

__version__ = "0.1.0"

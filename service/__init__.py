"""Thalweg: an optimizer behind a URL. Open `main` first."""

__version__ = "0.1.0"

"""Fixtures."""

from study.conftest import studies  # noqa: F401

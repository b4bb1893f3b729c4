"""Looks at policies."""

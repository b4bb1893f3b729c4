"""The papers' looks at final runs, found by the names of their modules (raymeta/registry.py).

What an analysis is: raymeta/analysis.py.
"""

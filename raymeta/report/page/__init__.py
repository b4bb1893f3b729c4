"""The report of a study: what the search has found, as one page and in other forms."""

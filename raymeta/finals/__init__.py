"""Final runs: configs at their full budget, tested once; nothing else reads the test split."""

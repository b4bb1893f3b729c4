"""What a study is before it starts: its space, its settings, what it would do."""

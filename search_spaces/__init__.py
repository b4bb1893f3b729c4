"""What is searched: one YAML a method or regularizer, and presets (task, budget, rungs)."""

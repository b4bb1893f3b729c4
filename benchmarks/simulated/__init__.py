"""Searches simulated on recorded trainings: `../search_table.py` records them, `../search_simulation.py` searches."""

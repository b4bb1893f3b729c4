"""How a study lies on a disk or a store: its journal, and who may write it."""

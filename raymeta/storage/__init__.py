"""Files, on a disk or on a store: read and written whole, or not at all."""

"""What real searches find; see ../search_quality.py."""

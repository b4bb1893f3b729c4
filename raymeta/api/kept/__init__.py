"""What is done with studies and runs that are there: compared, and kept in order."""

"""Many studies and final runs as one."""

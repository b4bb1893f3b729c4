"""From published files to a packed store: archives, folders, caches, downloads."""

"""SDNet: crops of target and rest, told apart (MetaSDNet)."""

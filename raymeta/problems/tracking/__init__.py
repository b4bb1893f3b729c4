"""Problems of tracking: a target marked in one frame, found in the frames that follow. What trackers share is here."""

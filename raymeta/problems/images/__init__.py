"""Few-shot classification of images: data sets, packed stores, episodes."""

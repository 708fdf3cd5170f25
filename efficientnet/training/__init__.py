"""Everything that knows how to train, and nothing of mammograms."""

"""The losses of whole detector and tracker heads, given assigned targets: one head per file."""

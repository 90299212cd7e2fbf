"""Videos: finding them, indexing them, choosing, decoding and preparing frames."""

"""Per-sample metrics: pure functions with the source of their definition."""

"""The judge of open-ended answers."""

"""A language model as judge of open-ended answers, kept apart from the rules."""

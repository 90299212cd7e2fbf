"""MTVR, the training data of VITAL: its record forms, its files, where they come from, and checks before training.

Only annotations are published (``zhang9302002/MultiTaskVideoReasoning``); no file of them was at hand when this was
written. ``docs/training_data.md`` says what is known and how well.
"""

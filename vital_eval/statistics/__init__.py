"""Honest numbers: means with clustered intervals, paired tests, families of tests, rank ranges, repeated answers."""

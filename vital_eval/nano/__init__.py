"""The nano world: small synthetic videos in the 11 official annotation formats, and the checkpoint that ships.

Nothing in the harness knows about it: it writes a data root like any other, and ``demo`` runs on that.
"""

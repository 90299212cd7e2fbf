"""The nano world: small synthetic videos in the 11 official annotation formats, and the checkpoint that ships.

It writes a data root like any other, and ``demo`` runs on that. Outside this package only the preset ``nano`` and its
prompt texts refer to it.
"""

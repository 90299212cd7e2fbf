"""Boards: tables derived from run folders, never from numbers that someone typed."""

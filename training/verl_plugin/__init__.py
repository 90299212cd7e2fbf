"""The cluster side of training: what verl 0.9.1 needs to train VITAL's stages, without a fork of it.

verl is installed in an environment of its own (``requirements.txt``). Importing this package imports neither verl nor
torch; :mod:`~.registration` is the module that verl loads.
"""

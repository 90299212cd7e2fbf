"""Many machines for one run: workers play whole episodes, one driver hands them out and keeps the records.

A worker is an engine with its decoding processes, so frames never travel between machines. The driver
(:mod:`~vital_eval.cluster.crew`) knows nothing of Ray; :mod:`~vital_eval.cluster.ray_cluster` is the only module that
does.
"""

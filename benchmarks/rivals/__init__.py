"""The sides of ``ssl3d bench sparse``: each runs in a process, and if need be an environment, of its own.

``worker`` is started by its path (``python -I worker.py minkowski``) and needs torch, numpy and the engine it is asked
for, nothing of ssl3d: MinkowskiEngine builds only on older Pythons than ours may be.
"""

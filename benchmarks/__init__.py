"""The measurements behind ``ssl3d bench``: each row is ours against a named rival in the same run."""

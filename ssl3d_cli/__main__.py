"""``python -m ssl3d.cli``: the same as ``ssl3d``, where the script is not on the path."""

from ssl3d.cli.app import main

main()

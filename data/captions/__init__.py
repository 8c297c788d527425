"""What images of scans are said to show: captions of whole images, and phrases with the pixels that they cover.

Two files in JSON Lines, one record a line: ``image.jsonl`` and ``entity.jsonl``; see ``records``. Nothing here knows
of the models that write captions, and training knows nothing but these files.
"""

"""The boundary network of WS3D (ECCV 2022): where semantic classes meet, learned from labelled scans."""

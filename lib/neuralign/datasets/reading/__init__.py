"""What the plug-ins in `sources` share: where data is, downloads, and reading of image files."""

"""Sources of images: a plug-in is `name(folder, *, ...options) -> Dataset`."""

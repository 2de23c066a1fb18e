"""Networks of the paper: a plug-in is `name(classes, channels, *, ...options) -> nn.Module`."""

"""What the library tells to programs that listen to its loggers."""

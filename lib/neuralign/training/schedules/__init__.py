"""Learning-rate schedules: a plug-in is `name(epoch, epochs, *, ...options) -> factor of lr`, with epochs from 0."""

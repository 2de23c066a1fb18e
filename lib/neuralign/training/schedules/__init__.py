"""Learning-rate schedules: a plug-in is `name(epoch, epochs, *, ...options) -> factor`, epoch counting from 0."""

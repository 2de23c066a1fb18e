"""Learning-rate schedules: a plug-in is `name(epoch, epochs, *, ...options) -> factor of lr`.

`epoch` counts from 0; it is a fraction in the midst of an epoch, for a schedule that is read at every step.
"""

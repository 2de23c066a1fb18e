"""The metrics of an objective along curves and on planes, correlation signatures, and a bound on the loss of a line."""

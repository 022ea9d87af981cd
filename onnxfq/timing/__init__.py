"""The public `benchmark`: what is run, how it is timed, and what was found."""

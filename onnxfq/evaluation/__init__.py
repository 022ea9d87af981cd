"""The public `evaluate`: what is asked, the tasks, and what was found."""

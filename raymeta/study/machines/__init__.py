"""The machines that trials run on: Ray, what each trial gets of a machine, and what a cluster must have first."""

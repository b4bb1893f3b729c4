"""What a notebook or a script uses, and every verb of the command line calls; `raymeta` itself has its names.

A module for each thing that one does: `searching`, `studies`, `finals`, `analysing`, `learners`, `using`, `following`,
`data`, `catalogue`.
"""

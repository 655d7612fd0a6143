"""Planning: measured devices in, provably best assignment out, explained.

`problem` is the question, `solution` the answer, `solve.solve` the way from one to the other. Nothing here
has a clock, a socket or a file, except `milp`, which runs the solver.
"""

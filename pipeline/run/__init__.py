"""The life of a run apart from its steps: its directory and who holds it, how a start begins, what the ranks agree on,
when checkpoints are saved, and how it ends.

start        what the user wants of this start, and what a run's directory allows
lease        who may write into the directory
directory    a new run, or one that goes on
set_aside    what a start finds in its way, kept
init_from    what a new run begins with
step_counts  what the ranks tell each other before a step
saving       checkpoints while training goes on
stop         signals that end it at the next step
progress     how far it is, told from its directory alone
"""

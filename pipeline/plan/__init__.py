"""What a run would be and take, from arithmetic alone.

No model is built, and no other process is needed.

sizes     parameters, by part
census    the first rows of a run -> what a row asks for on average
flops     that -> floating-point operations of a step
memory    bytes on one device, by part
run_plan  all of it, checked, and as a table

And on a given cluster:

hardware       GPUs and networks, named
communication  what each GPU sends, and how long that takes
prediction     a plan and a cluster -> the time of a step and of the run
"""

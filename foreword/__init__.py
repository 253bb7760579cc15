"""The ground floor: errors, configuration files, safe file writing, console output, the command line.

Nothing here knows about text, models or clusters. `data_prep`, `pipeline` and `slurm` build on it.
"""

__version__ = "0.1.0"

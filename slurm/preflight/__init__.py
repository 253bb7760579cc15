"""The nodes of a job, looked at before the first step: what every node says of itself, compared on the first one."""

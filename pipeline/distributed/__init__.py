"""Processes: where each stands, the groups they form, how they agree, how they start on one machine."""

"""Pages about runs: one run (`run_page`), several beside each other (`compare`)."""

"""Running a parallel schedule: one interface, and a virtual clock, threads, processes and Ray behind it."""

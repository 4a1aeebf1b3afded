"""The job store: what somebody asked for, what came of it, and who works at it. It is the truth; all else follows.

No kept library carries all that is needed on both databases: procrastinate and its like know only PostgreSQL; huey
knows both, but takes a task out of its table before it runs (a crash loses it), and has neither bounds nor an order
that can be changed, nor steps, nor a way to stop what runs.
"""

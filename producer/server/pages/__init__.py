"""The operator's page: the API's routes for eyes, rendered here, with as little script as serves.

session.py     who is logged in: a token's digest in a signed cookie, and tokens against forged forms
batches.py     batches, one batch with its photos, and what can be done about it
overview.py    workers, queues, schedules, recipes
work.py        what workers and queues are at
render.py      templates to answers, with a policy of their own
"""

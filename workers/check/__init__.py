"""`apf check`: whether recognisers still match protected photos to other photos of their people.

sightings.py   photos of a store, their faces, and the same faces before
people.py      who a face is: grouped by recognisers, sorted by hand, or by folders
result.py      what was said of each photo, in sentences and as JSON
page.py        all of it as one HTML file; page.html beside it
run.py         all of it, loaded by name from the producer, which may not load an image library
"""

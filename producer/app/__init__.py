"""`apf app`: a page on this machine's loopback, on which a person protects an album. It does what `apf protect` does.

albums.py    what is kept of an album, so that a closed page and a killed process lose nothing
runner.py    protects one album after the other, by the worker inside this process
helper.py    what takes image libraries, in a thread: first looks, pictures to compare, the check
people.py    whose each face is, as the user has sorted them
folders.py   folders that the page may show, and saving into one
guard.py     who may ask: token, Host, Origin; and the page's headers
uploads.py   photos that the browser hands over
zipping.py   protected photos as a zip that is made while it is sent
words.py     failures and choices in plain words
server.py    the pages; templates, style and script in pages/
"""

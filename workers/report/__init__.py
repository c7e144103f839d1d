"""The HTML page of `apf report`: what became of an album's photos.

    selection.py          which photos are shown, and which are measured
    published_objects.py  what is published under a photo's key now
    compare_photo.py      one photo: decoded, compared, boxed        (ONNX); of a private batch, what its output says of
                          itself
    thumbnails.py         its small JPEGs                            (Pillow)
    advice.py             what to do about a failure
    card.py               all that the page knows of one photo
    page.py               cards to HTML; page.html, page.css and page.js beside it
    single_file.py        templates of this page and of `apf check`'s
    output_files.py       where the page lies, and how an older one is replaced
    build.py              all of it, loaded by name from `producer.cli.report`, which may not load an image library

An original's pixels, its difference to the protected photo and its faces enter the page only where originals are asked
for: the difference and the protected photo together are the original.
"""

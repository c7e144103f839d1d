#!/bin/sh
# The demo: photos in, protected photos out, and a picture of both. PHOTOS, if set, is a folder of the user's own.
set -eu
cd "$(dirname "$0")/.."

rm -rf demo-out/in demo-out/out
python -m apf.research.demo collect demo-out/in ${PHOTOS:+--photos "$PHOTOS"}
# Status 1 means that some photos failed, with their reasons printed: the picture shows the rest.
apf protect demo-out/in demo-out/out || [ $? -eq 1 ]
python -m apf.research.demo picture demo-out/in demo-out/out demo-out/protected.png

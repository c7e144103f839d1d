"""`python -m producer` is the `apf` command."""

from producer.cli import main

main()

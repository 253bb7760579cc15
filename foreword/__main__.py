"""`python -m foreword`: the same as the `foreword` command."""

from foreword.cli import main

main()

"""The commands of `dplit`, one file each: a new file here is a new command.

A file's docstring is what `dplit --help` shows of it: its first line is the summary, its first indented line an example.
Its `main(arguments)` returns the exit status.
"""

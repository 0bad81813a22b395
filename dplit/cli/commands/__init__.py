"""The commands of `dplit`, one file each: a new file here is a new command.

`dplit --help` shows two lines of a file's docstring: the first, and the first that begins with `dplit`, an example. The
file's `main(arguments)` returns the exit status.
"""

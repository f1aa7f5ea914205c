"""Runs a command at a terminal of its own, without input.

terminal.py COMMAND ARGUMENT...     exits as the command does; what it shows goes to standard output
"""

import os, pty, sys

sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))

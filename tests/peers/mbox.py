"""Reads, or takes messages out of, a mailbox with Python's mailbox.

mbox.py export MAILBOX DIRECTORY     each message to DIRECTORY/0, DIRECTORY/1, ... as Python sees it
mbox.py take MAILBOX DIRECTORY N     under Python's locks moves what is there to DIRECTORY, until it has N
"""

import mailbox, pathlib, sys, time

verb, path, directory, *rest = sys.argv[1:]
directory = pathlib.Path(directory)
directory.mkdir()
taken = 0


def write(message):
    global taken
    (directory / str(taken)).write_bytes(message)
    taken += 1


if verb == "export":
    box = mailbox.mbox(path, create=False)
    for key in box.keys():
        write(box.get_bytes(key))
else:
    want, end = int(rest[0]), time.monotonic() + 60
    while taken < want and time.monotonic() < end:
        box = mailbox.mbox(path, create=False)
        try:
            box.lock()
        except mailbox.ExternalClashError:
            time.sleep(0.005)
            continue
        try:
            for key in box.keys():
                write(box.get_bytes(key))
                box.remove(key)
            box.flush()
        finally:
            box.unlock()
            box.close()
        time.sleep(0.01)
print(taken)

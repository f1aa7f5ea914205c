"""Reads, or takes messages out of, the INBOX of an IMAP server that runs on a pipe (PREAUTH).

imap.py export COMMAND DIRECTORY     each message to DIRECTORY/0, DIRECTORY/1, ..., its CR LF as LF
imap.py take COMMAND DIRECTORY N     expunges what it has written, as mail arrives, until it has N
"""

import imaplib, pathlib, sys, time

verb, command, directory, *rest = sys.argv[1:]
directory = pathlib.Path(directory)
directory.mkdir()
# Dovecot may forget, when mail arrives meanwhile, that the first message of a new mailbox is
# deleted. It is the same message then, by its UID, and is deleted once more.
seen = set()
server = imaplib.IMAP4_stream(command)
server.select("INBOX")
end = time.monotonic() + 60
while True:
    server.noop()
    uids = server.uid("search", "UNDELETED")[1][0].split()
    for uid in uids:
        if uid not in seen:
            message = server.uid("fetch", uid, "(BODY.PEEK[])")[1][0][1]
            (directory / str(len(seen))).write_bytes(message.replace(b"\r\n", b"\n"))
            seen.add(uid)
        if verb == "take":
            server.uid("store", uid, "+FLAGS.SILENT", r"(\Deleted)")
    if verb == "take":
        server.expunge()
    if verb == "export" or time.monotonic() > end:
        break
    if len(seen) >= int(rest[0]) and not uids:
        break
    time.sleep(0.01)
server.logout()
print(len(seen))

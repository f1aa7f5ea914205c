"""Reads, or takes messages out of, the INBOX of an IMAP server that runs on a pipe (PREAUTH).

imap.py export COMMAND FOLDER     each message to FOLDER/0, FOLDER/1, ..., its CR LF as LF
imap.py take COMMAND FOLDER N     expunges what it has written, as mail arrives, until it has N
"""

import imaplib, pathlib, sys, time

verb, command, folder, *rest = sys.argv[1:]
folder = pathlib.Path(folder)
folder.mkdir()
taken = 0
server = imaplib.IMAP4_stream(command)
server.select("INBOX")
end = time.monotonic() + 60
while True:
    server.noop()
    numbers = server.search(None, "UNDELETED")[1][0].split()
    for number in numbers:
        message = server.fetch(number, "(BODY.PEEK[])")[1][0][1]
        (folder / str(taken)).write_bytes(message.replace(b"\r\n", b"\n"))
        taken += 1
        if verb == "take":
            server.store(number, "+FLAGS.SILENT", r"(\Deleted)")
    if verb == "take":
        server.expunge()
    if verb == "export" or taken >= int(rest[0]) or time.monotonic() > end:
        break
    time.sleep(0.01)
server.logout()
print(taken)

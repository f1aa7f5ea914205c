"""Sends files as messages, all in one session of smtplib, as they are but for CR LF.

send.py HOST:PORT SENDER RECIPIENT FILE...     prints the reply to each: file, code, text
"""

import smtplib, sys

address, sender, recipient, *files = sys.argv[1:]
host, port = address.rsplit(":", 1)
with smtplib.SMTP(host, int(port), timeout=60) as server:
    server.ehlo()
    for name in files:
        with open(name, "rb") as file:
            data = file.read().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        assert server.mail(sender, ["SIZE=%d" % len(data), "BODY=8BITMIME"])[0] == 250
        assert server.rcpt(recipient)[0] == 250
        code, text = server.data(data)
        print(name, code, text.decode("ascii"), sep="\t")

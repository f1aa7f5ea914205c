"""Reads reports with Python's email package, and checks each field by the grammar of RFC 3464.

report.py FILE...
"""

import email, email.policy, email.utils, pathlib, re, sys

ATOM = r"[!#-'*+\-/-9=?A-Z^-~]+"
DATE = r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}"
TYPED = ATOM + r"; ?[ -~]+"
FIELDS = {
    "Reporting-MTA": TYPED, "Original-Envelope-Id": "[ -~]+", "Arrival-Date": DATE,
    "Original-Recipient": TYPED, "Final-Recipient": TYPED,
    "Action": "failed|delayed|delivered|relayed|expanded", "Status": r"[245]\.\d{1,3}\.\d{1,3}",
    "Remote-MTA": TYPED, "Diagnostic-Code": TYPED, "Last-Attempt-Date": DATE,
    "Will-Retry-Until": DATE,
}
ORDER = list(FIELDS)

for path in sys.argv[1:]:
    report = email.message_from_bytes(pathlib.Path(path).read_bytes(), policy=email.policy.SMTP)
    assert report.get_content_type() == "multipart/report", path
    assert report.get_param("report-type") == "delivery-status"
    assert not any(part.defects for part in report.walk()), path
    assert re.match("(Not delivered|Delayed|Relayed|Delivered): .", report["Subject"]), path
    assert "=?" not in report["Subject"], report["Subject"]
    text, status, returned = report.iter_parts()
    assert text.get_content_type() == "text/plain" and text.get_content().isascii()
    assert returned.get_content_type() == "text/rfc822-headers"
    message, *recipients = status.get_payload()
    assert recipients
    for block, required in [(message, ["Reporting-MTA"])] + [
        (block, ["Final-Recipient", "Action", "Status"]) for block in recipients
    ]:
        names = [name for name in block.keys()]
        assert set(required) <= set(names), names
        assert names == sorted(names, key=ORDER.index), names
        for name, value in block.items():
            assert re.fullmatch(FIELDS[name], value), (name, value)
            if FIELDS[name] == DATE:
                email.utils.parsedate_to_datetime(value)
    for block in recipients:
        assert ("Will-Retry-Until" in block) == (block["Action"] == "delayed")
        address = block["Final-Recipient"].partition(";")[2]
        assert f"    <{address}>\n" in text.get_content().replace("\r\n", "\n"), address
    print(report["Subject"])

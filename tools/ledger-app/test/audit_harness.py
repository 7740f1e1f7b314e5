"""Gives audit.py's replay the transactions that arrive as JSON, and prints what it says."""

import hashlib
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent.parent))
from audit import Audit  # noqa: E402


def data(digits):
    return None if digits is None else bytes.fromhex(digits)


given = json.load(sys.stdin)
# The certificate's text stands for its key: reading certificates is a package's work, not the replay's.
audit = Audit(lambda certificate: hashlib.sha256(certificate.encode()).hexdigest())
for entry in given["entries"]:
    tables = {}
    for name, key, value in entry["writes"]:
        tables.setdefault(name, {})[data(key)] = data(value)
    audit.step(entry["seqno"], tables, data(entry["claims"]))
audit.conclude(given["digests"])
json.dump({"findings": audit.findings, "report": audit.report()}, sys.stdout)

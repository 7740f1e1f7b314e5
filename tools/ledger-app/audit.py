"""Replays a CCF ledger's files and says which code ran, who the members are, and what every receipt rests on.

    pip install ccf==7.0.22          (Python 3.12 or newer)
    python3 audit.py LEDGER_FOLDER [LEDGER_FOLDER ...] [--digests digests.json]

The files are verified as they are read: the tree, its signatures, and the nodes that signed. Then every
transaction is replayed. The exit status is 1 if anything below does not hold:

  - the constitution, the modules and the endpoints in place at the opening are those of digests.json
  - nothing of the constitution, the code, the members or the join policy was written after the opening
  - no compiled code and no unprotected kind of node is allowed
  - the service has one key, from its first transaction on
  - each tag's version rises by one per append, and each append's and read's claims digest is the claim
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

GOVERNANCE = "public:ccf.gov."
TAGS = "public:keyfold.tags"
READS = "public:keyfold.last_read"
ONLY = bytes(8)
# Which nodes may join.
JOIN_POLICY = (
    "nodes.code_ids",
    "nodes.join_policy",
    "nodes.snp.host_data",
    "nodes.snp.measurements",
    "nodes.snp.tcb_versions",
    "nodes.snp.uvm_endorsements",
    "nodes.virtual.host_data",
    "nodes.virtual.measurements",
)
# What nothing writes once the service was opened.
FROZEN = JOIN_POLICY + (
    "constitution",
    "modules",
    "modules_quickjs_bytecode",
    "modules_quickjs_version",
    "endpoints",
    "js_runtime_options",
    "members.certs",
    "members.encryption_public_keys",
)
# Code that an auditor does not read, and nodes without the protection of SEV-SNP.
EMPTY = ("modules_quickjs_bytecode", "nodes.code_ids", "nodes.virtual.host_data", "nodes.virtual.measurements")
LABEL = b"keyfold-ledger/1"
APPEND, READ = 1, 2


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def claim(kind: int, tag: str, version: int, digest: str, nonce: str = "0" * 64) -> bytes:
    """The claims digest of an append or a read."""
    tail = bytes.fromhex(digest) + bytes.fromhex(nonce)
    return sha256(LABEL + bytes([kind]) + bytes.fromhex(tag) + version.to_bytes(8, "big") + tail)


class Audit:
    """The service's public state, transaction by transaction, and what was found wrong on the way."""

    def __init__(self, key_of) -> None:
        """key_of: the name of the key in a PEM certificate."""
        self.key_of = key_of
        self.state: dict[str, dict[bytes, bytes]] = {}
        self.opened_at: int | None = None
        self.opened_with: dict[str, str] = {}
        self.identity: str | None = None
        self.appends = 0
        self.reads = 0
        self.findings: list[str] = []

    def step(self, seqno: int, tables: dict, claims: bytes | None) -> None:
        """One transaction: what it wrote (None: deleted) and its claims digest."""
        if self.opened_at is not None:
            for name in FROZEN:
                if tables.get(GOVERNANCE + name):
                    self.find(seqno, f"{name} was written after the opening")
        for key, value in tables.get(TAGS, {}).items():
            self.append(seqno, key, value, claims)
        for value in tables.get(READS, {}).values():
            self.read(seqno, value, claims)
        for name, writes in tables.items():
            table = self.state.setdefault(name, {})
            for key, value in writes.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
        if service := tables.get(GOVERNANCE + "service.info", {}).get(ONLY):
            self.service(seqno, json.loads(service))

    def service(self, seqno: int, service: dict) -> None:
        key = self.key_of(service["cert"])
        if self.identity not in (None, key):
            self.find(seqno, f"the service's key changed: {self.identity} to {key}")
        self.identity = key
        if service["status"] == "Open" and self.opened_at is None:
            self.opened_at = seqno
            self.opened_with = self.digests()

    def append(self, seqno: int, key: bytes, value: bytes | None, claims: bytes | None) -> None:
        tag = key.decode()
        if value is None:
            return self.find(seqno, f"tag {tag} was deleted")
        before = self.state.get(TAGS, {}).get(key)
        version = json.loads(before)["version"] if before else 0
        entry = json.loads(value)
        if entry["version"] != version + 1:
            self.find(seqno, f"tag {tag} went from version {version} to {entry['version']}")
        if claims != claim(APPEND, tag, entry["version"], entry["digest"]):
            self.find(seqno, f"an append of tag {tag} claims something else")
        self.appends += 1

    def read(self, seqno: int, value: bytes | None, claims: bytes | None) -> None:
        read = json.loads(value or b"{}")
        stands = self.state.get(TAGS, {}).get(read["tag"].encode())
        expected = json.loads(stands) if stands else {"version": 0, "digest": "0" * 64}
        if {name: read[name] for name in expected} != expected:
            self.find(seqno, f"a read of tag {read['tag']} tells another standing")
        if claims != claim(READ, **read):
            self.find(seqno, f"a read of tag {read['tag']} claims something else")
        self.reads += 1

    def find(self, seqno: int, what: str) -> None:
        self.findings.append(f"transaction {seqno}: {what}")

    def governance(self, name: str) -> dict[bytes, bytes]:
        return self.state.get(GOVERNANCE + name, {})

    def digests(self) -> dict[str, str]:
        """As build.js and the constitution make them."""
        text = json.loads(self.governance("constitution")[ONLY])
        return {
            "constitution": sha256(text.encode()).hex(),
            "modules": self.table_digest("modules"),
            "endpoints": self.table_digest("endpoints"),
        }

    def table_digest(self, name: str) -> str:
        entries = sorted(self.governance(name).items())
        return sha256(b"".join(sha256(key) + sha256(value) for key, value in entries)).hex()

    def conclude(self, expected: dict[str, str]) -> None:
        """What can be said only at the end."""
        if self.opened_at is None:
            return self.findings.append("the service was never opened")
        for name, digest in expected.items():
            if self.opened_with[name] != digest:
                found = self.opened_with[name]
                self.findings.append(f"the {name} at the opening are {found}, not {digest}")
        for name in EMPTY:
            if self.governance(name):
                self.findings.append(f"{name} is not empty: see README.md")

    def report(self) -> str:
        lines = [f"service key (SHA-256 of its DER): {self.identity}", f"opened at: {self.opened_at}"]
        lines += [f"{name}: {digest}" for name, digest in self.digests().items()]
        for key, value in sorted(self.governance("members.info").items()):
            lines.append(f"member {key.decode()}: {json.loads(value).get('status')}")
        for name in JOIN_POLICY:
            lines += [f"{name}: {key.decode()}" for key in sorted(self.governance(name))]
        for key, value in sorted(self.governance("nodes.info").items()):
            lines.append(f"node {key.decode()}: {json.loads(value).get('status')}")
        lines.append(f"{len(self.state.get(TAGS, {}))} tags, {self.appends} appends, {self.reads} reads")
        return "\n".join(lines)


def public_key(certificate: str) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_pem_x509_certificate

    key = load_pem_x509_certificate(certificate.encode()).public_key()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hex()


def main() -> int:
    from ccf.ledger import Ledger, VerificationLevel

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+")
    here = Path(__file__).parent
    parser.add_argument("--digests", type=Path, default=here / "digests.json")
    arguments = parser.parse_args()
    audit = Audit(public_key)
    ledger = Ledger(arguments.folders, verification_level=VerificationLevel.FULL)
    for transaction in ledger.transactions():
        domain = transaction.get_public_domain()
        audit.step(domain.get_seqno(), domain.get_tables(), domain.get_claims_digest())
    audit.conclude(json.loads(arguments.digests.read_text()))
    print(audit.report())
    for finding in audit.findings:
        print(f"FINDING  {finding}")
    print("nothing was found" if not audit.findings else f"{len(audit.findings)} findings")
    return 1 if audit.findings else 0


if __name__ == "__main__":
    sys.exit(main())

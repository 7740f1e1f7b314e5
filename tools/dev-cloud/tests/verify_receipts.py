"""Asks Microsoft's own verifier (PyPI ccf) about receipts.

Reads {"key": PEM, "cases": [{"receipt": hex, "claims": hex, "key": PEM or absent}]} on stdin;
prints [{"accepted": bool, "txid": str, "right_siblings": int, "why": str}] in the same order.
"""

import json
import sys

import cbor2
from ccf.cose import verify_receipt
from cryptography.hazmat.primitives.serialization import load_pem_public_key

if not __debug__:
    sys.exit("ccf 6 checks kid and vds with assert: do not run this with -O")


def right_siblings(receipt: bytes) -> int:
    proofs = cbor2.loads(receipt).value[1][396][-1]
    return sum(not left for proof in proofs for left, _ in cbor2.loads(proof)[2])


def judge(case: dict, key) -> dict:
    receipt = bytes.fromhex(case["receipt"])
    if "key" in case:
        key = load_pem_public_key(case["key"].encode())
    try:
        header = verify_receipt(receipt, key, bytes.fromhex(case["claims"]))
    except Exception as error:  # any refusal counts, whatever its type
        return {"accepted": False, "why": repr(error)[:200]}
    return {
        "accepted": True,
        "txid": header["ccf.v1"]["txid"],
        "right_siblings": right_siblings(receipt),
    }


request = json.load(sys.stdin)
service_key = load_pem_public_key(request["key"].encode())
json.dump([judge(case, service_key) for case in request["cases"]], sys.stdout)

"""Makes unlock-vectors.txt with pyca/cryptography, which shares no code with the enclave's AWS-LC.

    python3 unlock_vectors.py > unlock-vectors.txt

One fact a line: a name, the wrapping algorithm where it matters, hex. `key` is the RSA-3072 private
key, PKCS#8; `root` the 32 bytes that every good vector unwraps to.
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

HASHES = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384()}
KEY = rsa.generate_private_key(65537, 3072)
ROOT = bytes(range(32))
TRANSPORT = bytes(range(100, 132))


def oaep(hash_, mask=None, transport=TRANSPORT, label=None):
    scheme = padding.OAEP(padding.MGF1(mask or hash_), hash_, label)
    return KEY.public_key().encrypt(transport, scheme)


def w(plain):
    """W of RFC 3394 section 2.2.1 over semiblocks, the integrity value among them: lets the vectors
    be wrong in ways that a wrapping function does not offer."""
    encrypt = Cipher(algorithms.AES(TRANSPORT), modes.ECB()).encryptor().update
    a, blocks = plain[:8], [plain[i : i + 8] for i in range(8, len(plain), 8)]
    for j in range(6):
        for i, block in enumerate(blocks):
            out = encrypt(a + block)
            t = len(blocks) * j + i + 1
            a = (int.from_bytes(out[:8], "big") ^ t).to_bytes(8, "big")
            blocks[i] = out[8:]
    return a + b"".join(blocks)


def kwp(length, padded, check="a65959a6"):
    return w(bytes.fromhex(check) + length.to_bytes(4, "big") + padded)


GOOD = aes_key_wrap_with_padding(TRANSPORT, ROOT)
assert kwp(32, ROOT) == GOOD
print("key", KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).hex())
print("root", ROOT.hex())
for name, hash_ in HASHES.items():
    print("good", name, (oaep(hash_) + GOOD).hex())
    front = oaep(hash_)
    for what, wrapped in {
        "empty": b"",
        "a-modulus-alone": front,
        "a-byte-short": (front + GOOD)[:-1],
        "a-byte-long": front + GOOD + b"\0",
        "a-block-short": front + GOOD[:-8],
        "a-block-long": front + GOOD + bytes(8),
        "a-zero-in-front": b"\0" + front + GOOD,
        "rsa-flipped": bytes([front[0]]) + bytes([front[1] ^ 1]) + front[2:] + GOOD,
        "rsa-zero": bytes(384) + GOOD,
        "rsa-all-ones": b"\xff" * 384 + GOOD,
        "kwp-flipped": front + GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
        "kwp-check-value": front + kwp(32, ROOT, "a65959a7"),
        "kwp-check-value-of-rfc-3394": front + w(b"\xa6" * 8 + ROOT),
        "kwp-padding": front + kwp(31, ROOT[:31] + b"\1"),
        "kwp-length-below": front + kwp(24, ROOT),
        "kwp-length-above": front + kwp(33, ROOT),
        "root-of-16": front + aes_key_wrap_with_padding(TRANSPORT, ROOT[:16]),
        "root-of-31": front + aes_key_wrap_with_padding(TRANSPORT, ROOT[:31]),
        "root-of-33": front + aes_key_wrap_with_padding(TRANSPORT, ROOT + b"\0"),
        "root-of-48": front + aes_key_wrap_with_padding(TRANSPORT, ROOT + ROOT[:16]),
        "transport-of-16": oaep(hash_, transport=TRANSPORT[:16])
        + aes_key_wrap_with_padding(TRANSPORT[:16], ROOT),
        "oaep-label": oaep(hash_, label=b"label") + GOOD,
        "mgf1-hash": oaep(hash_, mask=hashes.SHA512()) + GOOD,
        "pkcs1-padding": KEY.public_key().encrypt(TRANSPORT, padding.PKCS1v15()) + GOOD,
    }.items():
        print(what, name, wrapped.hex())
    for other, other_hash in HASHES.items():
        if other != name:
            print(f"oaep-{other}", name, (oaep(other_hash) + GOOD).hex())

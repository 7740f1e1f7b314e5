"""Undoes CKM_RSA_AES_KEY_WRAP with pyca: {"pkcs8", "ciphertext": hex, "hash"} on stdin, the key's hex on stdout."""

import json
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_private_key

request = json.load(sys.stdin)
key = load_der_private_key(bytes.fromhex(request["pkcs8"]), None)
ciphertext = bytes.fromhex(request["ciphertext"])
chosen = getattr(hashes, request["hash"])()
oaep = padding.OAEP(mgf=padding.MGF1(chosen), algorithm=chosen, label=None)
transport = key.decrypt(ciphertext[: key.key_size // 8], oaep)
json.dump(aes_key_unwrap_with_padding(transport, ciphertext[key.key_size // 8 :]).hex(), sys.stdout)

"""The combiners of relay/src/combine.rs, written again over pyca/cryptography."""

import hashlib
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def put(part):
    return len(part).to_bytes(8, "big") + part


def derive(data, info, length):
    return HKDF(algorithm=hashes.SHA384(), length=length, salt=None, info=info).derive(data)


def context(label, pool, number, index, transcript):
    numbers = pool.to_bytes(4, "big") + number.to_bytes(8, "big") + index.to_bytes(8, "big")
    return label + numbers + transcript


def combine(method, secret, transcript, pool, number, bits):
    out = b""
    if method == "xor":
        for index, at in enumerate(range(0, len(bits), 8192)):
            part = bits[at : at + 8192]
            info = context(b"qkm combine xor 1\0", pool, number, index, transcript)
            stream = derive(put(secret), info, len(part))
            out += bytes(a ^ b for a, b in zip(part, stream))
    else:
        for index, at in enumerate(range(0, len(bits), 32)):
            part = bits[at : at + 32]
            info = context(b"qkm combine catkdf 1\0", pool, number, index, transcript)
            out += derive(put(part) + put(secret), info, len(part))
    return out


public, ciphertext = bytes(i % 251 for i in range(1184)), bytes(i % 241 for i in range(1088))
secret, bits = bytes(range(32)), bytes(i * 7 % 256 for i in range(20_000))
transcript = hashlib.sha384(b"qkm ml-kem 1\0" + put(public) + put(ciphertext)).digest()
for method in ("xor", "catkdf"):
    sys.stdout.write(combine(method, secret, transcript, 0x5A5A5A, 77, bits).hex() + "\n")

"""Turns tokens back into values, with nothing but Python's standard library.

This is the construction of src/token.rs written down a second time, from its description:
a test holds the two against one another, and it serves whoever has no `kasho` at hand.

Usage: reverse.py KEY_HEX DOMAIN base64url|hex PREFIX TOKEN…     prints a JSON list of values
       reverse.py --make KEY_HEX DOMAIN base64url|hex PREFIX VALUE…       the other way round
"""

import base64
import hashlib
import hmac
import json
import sys


def sha(key, text):
    return hmac.new(key, text, hashlib.sha256).digest()


def prf(master, domain, value):
    """HKDF-SHA256 (RFC 5869) to a key of the domain, HMAC-SHA256 under it, 16 bytes."""
    key = sha(sha(bytes(32), master), b"kasho/1\0" + domain.encode() + b"\x01")
    return sha(key, value)[:16]


def crypt(master, domain, siv, text):
    stream, block = b"", 0
    while len(stream) < len(text):
        stream += prf(master, "tokenize/1/stream/" + domain, f"{siv.hex()}/{block}".encode())
        block += 1
    return bytes(a ^ b for a, b in zip(text, stream))


def make(master, domain, encoding, prefix, value):
    siv = prf(master, "tokenize/1/siv/" + domain, value.encode())
    token = siv + crypt(master, domain, siv, value.encode())
    if encoding == "hex":
        return prefix + token.hex()
    return prefix + base64.urlsafe_b64encode(token).decode().rstrip("=")


def reverse(master, domain, encoding, prefix, token):
    assert token.startswith(prefix), "another prefix"
    token = token[len(prefix):]
    if encoding == "hex":
        token = bytes.fromhex(token)
    else:
        token = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    value = crypt(master, domain, token[:16], token[16:])
    assert prf(master, "tokenize/1/siv/" + domain, value) == token[:16], "no token of this key"
    return value.decode()


arguments = sys.argv[1:]
turn = make if arguments[0] == "--make" else reverse
key, domain, encoding, prefix, *texts = arguments[1:] if turn is make else arguments
print(json.dumps([turn(bytes.fromhex(key), domain, encoding, prefix, text) for text in texts]))

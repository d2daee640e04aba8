"""RSA keys, made once in a process: it is the primes that take long, and few tests mind whose key it is."""

import functools

from cryptography.hazmat.primitives.asymmetric import rsa


@functools.cache
def rsa_key(number: int = 0, *, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key of this number and size; other numbers are other keys."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)

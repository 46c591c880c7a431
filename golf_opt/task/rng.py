"""Counter-based randomness: every draw is a pure function of its key, on any engine and device.

Nothing here has a state to save or to lose, so a trial that is stopped and continued, in another
lane or another process, draws what it would have drawn. All arithmetic is on 32-bit words so that
C++ and CUDA can repeat it exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
FEISTEL_ROUNDS = 8


def mix(word: Words) -> Words:
    """Scramble 32-bit words: a bijection with full avalanche.

    The constants are "lowbias32" of https://github.com/skeeto/hash-prospector.
    """
    word = word ^ (word >> np.uint32(16))
    word = word * np.uint32(0x7FEB352D)
    word = word ^ (word >> np.uint32(15))
    word = word * np.uint32(0x846CA68B)
    return word ^ (word >> np.uint32(16))


def derive(*key: int | str) -> int:
    """Fold a key of whole numbers and words into one 32-bit seed."""
    with np.errstate(over="ignore"):
        state = np.array([0x9E3779B9], dtype=np.uint32)
        for part in key:
            number = int.from_bytes(part.encode(), "little") if isinstance(part, str) else part
            while True:
                state = mix(state ^ np.uint32(number & 0xFFFFFFFF)) + np.uint32(0x9E3779B9)
                number >>= 32
                if number <= 0:
                    break
    return int(state[0])


def uniform(key: int, n: int) -> npt.NDArray[np.float32]:
    """Return n float32 in [0, 1), the i-th a function of (key, i) alone."""
    return uniform_at(key, np.arange(n))


def uniform_at(key: int, counters: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return float32 in [0, 1) of the counters' shape, each a function of key and counter alone."""
    word = mix(mix(counters.astype(np.uint32) ^ np.uint32(key)) + np.uint32(key))
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def permutation(key: int, n: int) -> npt.NDArray[np.int64]:
    """Return a permutation of 0..n-1 whose i-th entry is a function of (key, n, i) alone.

    A Feistel network over the smallest even number of bits that holds n, walked until it lands
    below n (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): no table, no
    shuffle, so a GPU thread finds its image of any step of any epoch by itself.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    order = _feistel(np.arange(n, dtype=np.uint32), key, half)
    while (outside := order >= n).any():
        order[outside] = _feistel(order[outside], key, half)
    return order.astype(np.int64)


def _feistel(word: Words, key: int, half: int) -> Words:
    mask = np.uint32((1 << half) - 1)
    left, right = word >> np.uint32(half), word & mask
    for turn in range(FEISTEL_ROUNDS):
        round_key = np.uint32(derive(key, turn))
        left, right = right, left ^ (mix(right + round_key) & mask)
    return (left << np.uint32(half)) | right

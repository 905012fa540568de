"""Damage to lines of JSON of the kinds that broken and hostile peers do."""

import random
from collections.abc import Callable

QUICK = 10_000
LONG = 10_000_000
SEED = 20_260_301

_PIECES = (
    b"[", b"]", b"[[", b"]]", b",", b",,", b'"', b"\\", b"\\u0000", b"\x00", b"\x1b[2J", b"\xff\xfe", b"\n", b"\r",
    b"null", b"true", b"{}", b'{"a":1}', b"-1", b"-0", b"1e999", b"1.0", b"NaN", b"Infinity", b"9" * 40, b"9" * 5000,
    b"18446744073709551616", b"9007199254740992", b"0x1", b"01", b'"r2"', b'"ask"', b'"hello"', b"'", b" ", b"\t",
)  # fmt: skip


def damaged(rng: random.Random, line: bytes) -> bytes:
    """One to four damages."""
    body = bytearray(line)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(9):
            case 0 if body:
                body[at % len(body)] ^= 1 << rng.randrange(8)
            case 1 if body:
                body[at % len(body)] = rng.randrange(256)
            case 2:
                del body[at : at + rng.randint(1, 16)]
            case 3:
                body[at:at] = rng.randbytes(rng.randint(1, 16))
            case 4 | 5:
                body[at:at] = rng.choice(_PIECES)
            case 6:
                body[at:at] = rng.choice((b"[", b'["a",', b"[[],")) * rng.choice((3, 50, 3_000) if at == 0 else (3,))
            case 7:
                del body[at:]
            case _:
                start = rng.randint(0, len(body))
                body[at:at] = body[start : start + 200]
    return bytes(body)


def survives(parse: Callable[[bytes], object], refusal: type[Exception], good: tuple[bytes, ...], count: int) -> int:
    """How many of ``count`` damaged lines were taken; anything raised but ``refusal`` is the test's failure."""
    rng = random.Random(SEED)
    taken = 0
    for _ in range(count):
        line = damaged(rng, rng.choice(good))
        try:
            parse(line)
        except refusal as error:
            text = str(error)
            assert len(text) < 400
            assert text.isprintable()
        else:
            taken += 1
    return taken

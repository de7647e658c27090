"""Output on streams that cannot write ‖ or τ (cp1252, latin-1, ASCII): words in ASCII instead of a crash."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

_IN_ASCII = {
    "–": "-", "…": "...", "±": "+-", "·": "*", "‖": "||", "≤": "<=", "≥": ">=", "≠": "!=", "∝": "~", "∘": "*",
    "→": "->", "√": "sqrt", "Σ": "sum", "∈": "in", "‾": "^", "−": "-",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "eps", "η": "eta", "θ": "theta", "κ": "kappa",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ψ": "psi", "ω": "omega",
}  # fmt: skip
_ERRORS = _ENCODING = "ltpost-ascii"


def in_ascii(text: str) -> str:
    """The text in ASCII, as people would type it.

    >>> in_ascii("w_c / ‖w_c‖^τ – 50 ±0.3, ½, é, 猫")
    'w_c / ||w_c||^tau - 50 +-0.3, 1/2, e, ?'
    """
    return "".join(_letter(letter) for letter in text)


def _letter(letter: str) -> str:
    if letter in _IN_ASCII:
        return _IN_ASCII[letter]
    plain = unicodedata.normalize("NFKD", letter).replace("⁄", "/").encode("ascii", "ignore").decode()
    return letter if letter.isascii() else plain or "?"


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


def _ascii_by_another_name(name: str) -> codecs.CodecInfo | None:
    if name.replace("_", "-") != _ENCODING:
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode, known.decode, known.streamreader, known.streamwriter, known.incrementalencoder,
        known.incrementaldecoder, name=_ENCODING,
    )  # fmt: skip


def never_fail() -> None:
    """Let stdout and stderr write :func:`in_ascii` where they cannot encode a letter.

    To a stream whose encoding is called ASCII click writes UTF-8, so its encoding gets another name.
    """
    codecs.register_error(_ERRORS, _replace)
    codecs.register(_ascii_by_another_name)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            known = codecs.lookup(stream.encoding).name
            stream.reconfigure(encoding=_ENCODING if known == "ascii" else stream.encoding, errors=_ERRORS)

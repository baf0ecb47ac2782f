"""Reading sums of irreps from settings."""

from __future__ import annotations

from e3nn import o3

SCALAR = o3.Irrep("0e")
EXAMPLE = "64x0e+32x1o+16x2e"
MAX_DEGREE = 11
"""e3nn knows the coupling coefficients up to here."""
MAX_CHANNELS = 10_000


def irreps_set(irreps: o3.Irreps) -> set[o3.Irrep]:
    """The distinct irreps."""
    return {ir for _, ir in irreps}


def parse_irreps(text: str, parity: bool) -> o3.Irreps:
    """Irreps, each once and sorted.

    Raises ValueError if none, without 0e, too high, too many, or odd without parity.
    """
    if not isinstance(text, str):
        raise ValueError(f"hidden_irreps must be a sum of irreps such as {EXAMPLE!r}, not {text!r}")
    try:
        irreps = o3.Irreps(text).regroup()
    except (ValueError, AttributeError, IndexError, TypeError):
        raise ValueError(
            f"hidden_irreps {text!r} is not a sum of irreps; use {_readable_part(text)!r}"
        ) from None
    if SCALAR not in irreps_set(irreps):
        raise ValueError(
            f"hidden_irreps {text!r} has no 0e, which the energy is made of; "
            f"use {'+'.join(['64x0e', *([str(irreps)] if irreps else [])])!r}"
        )
    if (degree := max(ir.l for ir in irreps_set(irreps))) > MAX_DEGREE:
        low = o3.Irreps((mul, ir) for mul, ir in irreps if ir.l <= MAX_DEGREE)
        raise ValueError(
            f"hidden_irreps {text!r} has l = {degree}, beyond {MAX_DEGREE}, the last whose "
            f"couplings are known; use {str(low)!r}"
        )
    if any(mul > MAX_CHANNELS for mul, _ in irreps):
        fewer = o3.Irreps((min(mul, MAX_CHANNELS), ir) for mul, ir in irreps)
        raise ValueError(
            f"hidden_irreps {text!r} has more than {MAX_CHANNELS} channels of an irrep; "
            f"use {str(fewer)!r}"
        )
    if not parity and any(ir.p < 0 for ir in irreps_set(irreps)):
        even = o3.Irreps((mul, (ir.l, 1)) for mul, ir in irreps).regroup()
        raise ValueError(
            f"hidden_irreps {text!r} has odd irreps, but without parity there are none; "
            f"use {str(even)!r}"
        )
    return irreps


def _readable_part(text: str) -> str:
    """The terms of an irreps string that can be read, or an example."""
    good = []
    for term in str(text).split("+"):
        try:
            good.append(str(o3.Irreps(term)))
        except (ValueError, AttributeError, IndexError, TypeError):
            continue
    joined = "+".join(term for term in good if term)
    return joined or EXAMPLE

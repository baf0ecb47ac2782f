"""Hints inside error messages."""

from mlff2d.errors import nearest


def test_nearest_whatever_the_case() -> None:
    assert nearest("MACE", ["mace", "painn"]) == " Did you mean 'mace'? Valid: mace, painn."
    assert nearest("bandgap", ["BandGap", "mass"]).startswith(" Did you mean 'BandGap'?")
    assert nearest("xyz", ["mace", "painn"]) == " Valid: mace, painn."

"""Hints inside error messages."""

from mlff2d.errors import counted, nearest


def test_one_is_singular() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2, 1200)] == [
        "0 frames",
        "1 frame",
        "2 frames",
        "1,200 frames",
    ]


def test_nearest_whatever_the_case() -> None:
    assert nearest("MACE", ["mace", "painn"]) == " Did you mean 'mace'? Valid: mace, painn."
    assert nearest("bandgap", ["BandGap", "mass"]).startswith(" Did you mean 'BandGap'?")
    assert nearest("xyz", ["mace", "painn"]) == " Valid: mace, painn."

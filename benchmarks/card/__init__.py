"""Parts of the card of a universal potential; see `benchmarks.universal_card`."""

"""Whether a potential keeps to what every potential of slabs must: `mlff2d check`."""

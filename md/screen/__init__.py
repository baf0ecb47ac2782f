"""`mlff2d relax`: files and folders of structures, each with a row whatever happens."""

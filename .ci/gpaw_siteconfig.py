"""How GPAW is compiled for the tests: one process a calculation, so without MPI and ScaLAPACK."""

# ruff: noqa: F821
# GPAW's setup runs this file among names of its own.
mpi = False
scalapack = False
fftw = True
noblas = False
libraries = ["xc", "openblas", "fftw3"]  # as Debian calls them
compiler = "gcc"
extra_compile_args += ["-O3", "-fopenmp-simd"]

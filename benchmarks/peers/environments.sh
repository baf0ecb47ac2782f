#!/usr/bin/env bash
# An environment for each peer of benchmarks/{training,inference}_speed.py, from scratch:
#   bash benchmarks/peers/environments.sh FOLDER [mace] [nequip] [schnetpack] [matgl] [sevenn] [nequix]
# They exclude each other: mace-torch pins an e3nn that nequip does not go with. Where the index has
# a build of torch for the CPU alone, set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to take it.
# With cuequivariance mace-torch leaves out the redundant products of its basis, on a CPU too.
set -euo pipefail

folder=${1:?where the environments shall be}
shift
wanted=${*:-mace nequip schnetpack matgl sevenn nequix}

for peer in $wanted; do
    python -m venv "$folder/$peer"
    pip=("$folder/$peer/bin/python" -m pip install --quiet)
    "${pip[@]}" torch==2.13.0
    case $peer in
        mace) "${pip[@]}" mace-torch==0.3.16 cuequivariance==0.13.0 cuequivariance-torch==0.13.0 ;;
        nequip) "${pip[@]}" nequip==0.19.1 ;;
        schnetpack)
            # It pins an old torchmetrics, which an older torch goes with.
            "${pip[@]}" --no-deps schnetpack==2.0.4
            "${pip[@]}" numpy ase tqdm pytorch-lightning torchmetrics hydra-core h5py tensorboard \
                hydra-colorlog rich fasteners dirsync torch-ema matscipy
            ;;
        sevenn) "${pip[@]}" sevenn==0.13.0 ;;
        nequix)
            # Its extra for torch wants CUDA; on a CPU its operations are those of e3nn.
            "${pip[@]}" nequix==0.4.5 e3nn==0.6.0 torch-geometric==2.8.1 setuptools
            ;;
        matgl) "${pip[@]}" matgl==4.1.2 ;;
        *) echo "unknown peer $peer" >&2; exit 2 ;;
    esac
done

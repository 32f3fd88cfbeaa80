#!/bin/sh
# launch_exchange_id under a real mpirun: over PMIx, with MPI started before or after, and without libpmix.
# Run by make check; the build folder is the current one.
rank=tests/unit/bootstrap/launch_rank
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

if ! command -v mpirun >/dev/null; then
    echo "skipped: no mpirun"
    exit 77
fi
if grep -q '^S\["SANITIZE"\]=".*-fsanitize' config.status; then
    echo "skipped: Open MPI and libpmix are not built for the sanitizers"
    exit 77
fi

port=$((10000 + $$ % 9000))

# $1: launcher expected in the output; the rest: words of env and the mode
run() {
    launcher=$1
    shift
    output=$(timeout 60 mpirun --oversubscribe -n 4 env "$@" 2>&1) || {
        echo "failed: $*"
        echo "$output"
        exit 1
    }
    if [ "$(echo "$output" | grep -c "of 4 by $launcher, .*: joined")" != 4 ]; then
        echo "not every rank joined: $*"
        echo "$output"
        exit 1
    fi
}

run pmix $rank plain
run pmix $rank mpi-first
run pmix $rank mpi-last
# On one host Open MPI's variables are enough.
run open-mpi -u PMIX_RANK $rank plain
# What the user says goes first.
run thrum sh -c "THRUM_RANK=\$OMPI_COMM_WORLD_RANK THRUM_SIZE=4 THRUM_ROOT=127.0.0.1:$port exec $rank plain"
run thrum sh -c "THRUM_RANK=\$OMPI_COMM_WORLD_RANK THRUM_SIZE=4 THRUM_ROOT=127.0.0.1:$port \
    THRUM_SECRET=correct-horse-battery-staple exec $rank plain"
echo "mpirun: all ways joined"

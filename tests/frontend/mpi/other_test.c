/* Collectives that Thrum does not have, through libthrum-mpi; with the argument "none" no collective at all. See mpi-frontend. */
#include "check.h"

#define MOST 16

static void everybody(void)
{
    int in[MOST], out[MOST], counts[MOST], displs[MOST];
    MPI_Datatype types[MOST];
    MPI_Request request;

    for (int r = 0; r < check_size; r++) {
        in[r] = 100 * check_rank + r;
        counts[r] = 1;
        displs[r] = r * (int)sizeof(int);
        types[r] = MPI_INT;
    }
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        memset(out, 0xff, sizeof out);
        if (nonblocking) {
            MPI_Ialltoallw(in, counts, displs, types, out, counts, displs, types, MPI_COMM_WORLD,
                           &request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        } else {
            MPI_Alltoallw(in, counts, displs, types, out, counts, displs, types, MPI_COMM_WORLD);
        }
        for (int r = 0; r < check_size; r++)
            check(out[r] == 100 * r + check_rank, "alltoallw: out[%d]=%d", r, out[r]);
    }
}

/* In a ring: the one before, then the one behind. */
static void neighbours(void)
{
    int period = 1, own = check_rank, out[2], displs[2] = {0, 1}, counts[2] = {1, 1};
    int before = (check_rank + check_size - 1) % check_size, behind = (check_rank + 1) % check_size;
    int two[2] = {check_rank, check_rank};
    MPI_Aint distances[2] = {0, sizeof(int)};
    MPI_Datatype types[2] = {MPI_INT, MPI_INT};
    MPI_Request request;
    MPI_Comm ring;

    MPI_Cart_create(MPI_COMM_WORLD, 1, &check_size, &period, 0, &ring);
    for (int form = 0; form < 6; form++) {
        out[0] = out[1] = -1;
        switch (form) {
        case 0:
            MPI_Neighbor_allgather(&own, 1, MPI_INT, out, 1, MPI_INT, ring);
            break;
        case 1:
            MPI_Ineighbor_allgather(&own, 1, MPI_INT, out, 1, MPI_INT, ring, &request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            break;
        case 2:
            MPI_Neighbor_allgatherv(&own, 1, MPI_INT, out, counts, displs, MPI_INT, ring);
            break;
        case 3:
            MPI_Neighbor_alltoall(two, 1, MPI_INT, out, 1, MPI_INT, ring);
            break;
        case 4:
            MPI_Neighbor_alltoallv(two, counts, displs, MPI_INT, out, counts, displs, MPI_INT,
                                   ring);
            break;
        default:
            MPI_Neighbor_alltoallw(two, counts, distances, types, out, counts, distances, types,
                                   ring);
            break;
        }
        check(out[0] == before && out[1] == behind, "form %d: %d and %d", form, out[0], out[1]);
    }
    MPI_Comm_free(&ring);
}

int main(int argc, char **argv)
{
    int status = 0;

    MPI_Init(&argc, &argv);
    check_begin();
    if (argc < 2 || strcmp(argv[1], "none")) {
        everybody();
        check_case("alltoallw");
        neighbours();
        check_case("neighbourhood collectives");
        status = check_end();
    }
    MPI_Finalize();
    return status;
}

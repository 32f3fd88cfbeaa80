/* Collectives that Thrum does not have: MPI's name, name in nonblocking forms, what they take (other.c). Included several times. */
X(Alltoallw, alltoallw, TYPES)
X(Neighbor_allgather, neighbor_allgather, BLOCKS)
X(Neighbor_allgatherv, neighbor_allgatherv, RECV_COUNTS)
X(Neighbor_alltoall, neighbor_alltoall, BLOCKS)
X(Neighbor_alltoallv, neighbor_alltoallv, COUNTS)
X(Neighbor_alltoallw, neighbor_alltoallw, DISTANCES)

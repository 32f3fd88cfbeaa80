/*
 * MPI's functions as Fortran calls them: spelling, P(parameters), and how they fill a struct tmpi_call. B() is a buffer, T()
 * a type, O() an operation, C() a communicator. Included several times by fortran.c.
 */
ENTRY(ALLREDUCE, allreduce,
      P(char *send, char *recv, MPI_Fint *count, MPI_Fint *type, MPI_Fint *op, MPI_Fint *comm),
      .send = B(send), .recv = B(recv), .sendcount = *count, .sendtype = T(type), .op = O(op),
      .comm = C(comm))
ENTRY(REDUCE, reduce,
      P(char *send, char *recv, MPI_Fint *count, MPI_Fint *type, MPI_Fint *op, MPI_Fint *root,
        MPI_Fint *comm),
      .send = B(send), .recv = B(recv), .sendcount = *count, .sendtype = T(type), .op = O(op),
      .root = *root, .comm = C(comm))
ENTRY(BCAST, bcast,
      P(char *buffer, MPI_Fint *count, MPI_Fint *type, MPI_Fint *root, MPI_Fint *comm),
      .send = B(buffer), .recv = B(buffer), .sendcount = *count, .sendtype = T(type), .root = *root,
      .comm = C(comm))
ENTRY(ALLGATHER, allgather,
      P(char *send, MPI_Fint *sendcount, MPI_Fint *sendtype, char *recv, MPI_Fint *recvcount,
        MPI_Fint *recvtype, MPI_Fint *comm),
      .send = B(send), .sendcount = *sendcount, .sendtype = T(sendtype), .recv = B(recv),
      .recvcount = *recvcount, .recvtype = T(recvtype), .comm = C(comm))
ENTRY(ALLGATHERV, allgatherv,
      P(char *send, MPI_Fint *sendcount, MPI_Fint *sendtype, char *recv, MPI_Fint *recvcounts,
        MPI_Fint *displs, MPI_Fint *recvtype, MPI_Fint *comm),
      .send = B(send), .sendcount = *sendcount, .sendtype = T(sendtype), .recv = B(recv),
      .recvcounts = recvcounts, .rdispls = displs, .recvtype = T(recvtype), .comm = C(comm))
ENTRY(REDUCE_SCATTER, reduce_scatter,
      P(char *send, char *recv, MPI_Fint *recvcounts, MPI_Fint *type, MPI_Fint *op, MPI_Fint *comm),
      .send = B(send), .recv = B(recv), .recvcounts = recvcounts, .sendtype = T(type), .op = O(op),
      .comm = C(comm))
ENTRY(REDUCE_SCATTER_BLOCK, reduce_scatter_block,
      P(char *send, char *recv, MPI_Fint *recvcount, MPI_Fint *type, MPI_Fint *op, MPI_Fint *comm),
      .send = B(send), .recv = B(recv), .recvcount = *recvcount, .sendtype = T(type), .op = O(op),
      .comm = C(comm))
ENTRY(ALLTOALL, alltoall,
      P(char *send, MPI_Fint *sendcount, MPI_Fint *sendtype, char *recv, MPI_Fint *recvcount,
        MPI_Fint *recvtype, MPI_Fint *comm),
      .send = B(send), .sendcount = *sendcount, .sendtype = T(sendtype), .recv = B(recv),
      .recvcount = *recvcount, .recvtype = T(recvtype), .comm = C(comm))
ENTRY(ALLTOALLV, alltoallv,
      P(char *send, MPI_Fint *sendcounts, MPI_Fint *sdispls, MPI_Fint *sendtype, char *recv,
        MPI_Fint *recvcounts, MPI_Fint *rdispls, MPI_Fint *recvtype, MPI_Fint *comm),
      .send = B(send), .sendcounts = sendcounts, .sdispls = sdispls, .sendtype = T(sendtype),
      .recv = B(recv), .recvcounts = recvcounts, .rdispls = rdispls, .recvtype = T(recvtype),
      .comm = C(comm))
ENTRY(GATHER, gather,
      P(char *send, MPI_Fint *sendcount, MPI_Fint *sendtype, char *recv, MPI_Fint *recvcount,
        MPI_Fint *recvtype, MPI_Fint *root, MPI_Fint *comm),
      .send = B(send), .sendcount = *sendcount, .sendtype = T(sendtype), .recv = B(recv),
      .recvcount = *recvcount, .recvtype = T(recvtype), .root = *root, .comm = C(comm))
ENTRY(GATHERV, gatherv,
      P(char *send, MPI_Fint *sendcount, MPI_Fint *sendtype, char *recv, MPI_Fint *recvcounts,
        MPI_Fint *displs, MPI_Fint *recvtype, MPI_Fint *root, MPI_Fint *comm),
      .send = B(send), .sendcount = *sendcount, .sendtype = T(sendtype), .recv = B(recv),
      .recvcounts = recvcounts, .rdispls = displs, .recvtype = T(recvtype), .root = *root,
      .comm = C(comm))
ENTRY(SCATTER, scatter,
      P(char *send, MPI_Fint *sendcount, MPI_Fint *sendtype, char *recv, MPI_Fint *recvcount,
        MPI_Fint *recvtype, MPI_Fint *root, MPI_Fint *comm),
      .send = B(send), .sendcount = *sendcount, .sendtype = T(sendtype), .recv = B(recv),
      .recvcount = *recvcount, .recvtype = T(recvtype), .root = *root, .comm = C(comm))
ENTRY(SCATTERV, scatterv,
      P(char *send, MPI_Fint *sendcounts, MPI_Fint *displs, MPI_Fint *sendtype, char *recv,
        MPI_Fint *recvcount, MPI_Fint *recvtype, MPI_Fint *root, MPI_Fint *comm),
      .send = B(send), .sendcounts = sendcounts, .sdispls = displs, .sendtype = T(sendtype),
      .recv = B(recv), .recvcount = *recvcount, .recvtype = T(recvtype), .root = *root,
      .comm = C(comm))
ENTRY(SCAN, scan,
      P(char *send, char *recv, MPI_Fint *count, MPI_Fint *type, MPI_Fint *op, MPI_Fint *comm),
      .send = B(send), .recv = B(recv), .sendcount = *count, .sendtype = T(type), .op = O(op),
      .comm = C(comm))
ENTRY(EXSCAN, exscan,
      P(char *send, char *recv, MPI_Fint *count, MPI_Fint *type, MPI_Fint *op, MPI_Fint *comm),
      .send = B(send), .recv = B(recv), .sendcount = *count, .sendtype = T(type), .op = O(op),
      .comm = C(comm))
ENTRY(BARRIER, barrier, P(MPI_Fint *comm), .comm = C(comm))

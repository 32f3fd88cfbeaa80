/*
 * MPI's functions: name, spellings, P(parameters), and how they fill a struct tmpi_call. The nonblocking and persistent
 * forms have the same with more behind. Included several times by entry.c.
 */
ENTRY(ALLREDUCE, Allreduce, allreduce,
      P(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm),
      .send = send, .recv = recv, .sendcount = count, .sendtype = type, .op = op, .comm = comm)
ENTRY(REDUCE, Reduce, reduce,
      P(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, int root,
        MPI_Comm comm),
      .send = send, .recv = recv, .sendcount = count, .sendtype = type, .op = op, .root = root,
      .comm = comm)
ENTRY(BCAST, Bcast, bcast, P(void *buffer, int count, MPI_Datatype type, int root, MPI_Comm comm),
      .send = buffer, .recv = buffer, .sendcount = count, .sendtype = type, .root = root,
      .comm = comm)
ENTRY(ALLGATHER, Allgather, allgather,
      P(const void *send, int sendcount, MPI_Datatype sendtype, void *recv, int recvcount,
        MPI_Datatype recvtype, MPI_Comm comm),
      .send = send, .sendcount = sendcount, .sendtype = sendtype, .recv = recv,
      .recvcount = recvcount, .recvtype = recvtype, .comm = comm)
ENTRY(ALLGATHERV, Allgatherv, allgatherv,
      P(const void *send, int sendcount, MPI_Datatype sendtype, void *recv, const int recvcounts[],
        const int displs[], MPI_Datatype recvtype, MPI_Comm comm),
      .send = send, .sendcount = sendcount, .sendtype = sendtype, .recv = recv,
      .recvcounts = recvcounts, .rdispls = displs, .recvtype = recvtype, .comm = comm)
ENTRY(REDUCE_SCATTER, Reduce_scatter, reduce_scatter,
      P(const void *send, void *recv, const int recvcounts[], MPI_Datatype type, MPI_Op op,
        MPI_Comm comm),
      .send = send, .recv = recv, .recvcounts = recvcounts, .sendtype = type, .op = op,
      .comm = comm)
ENTRY(REDUCE_SCATTER_BLOCK, Reduce_scatter_block, reduce_scatter_block,
      P(const void *send, void *recv, int recvcount, MPI_Datatype type, MPI_Op op, MPI_Comm comm),
      .send = send, .recv = recv, .recvcount = recvcount, .sendtype = type, .op = op, .comm = comm)
ENTRY(ALLTOALL, Alltoall, alltoall,
      P(const void *send, int sendcount, MPI_Datatype sendtype, void *recv, int recvcount,
        MPI_Datatype recvtype, MPI_Comm comm),
      .send = send, .sendcount = sendcount, .sendtype = sendtype, .recv = recv,
      .recvcount = recvcount, .recvtype = recvtype, .comm = comm)
ENTRY(ALLTOALLV, Alltoallv, alltoallv,
      P(const void *send, const int sendcounts[], const int sdispls[], MPI_Datatype sendtype,
        void *recv, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype,
        MPI_Comm comm),
      .send = send, .sendcounts = sendcounts, .sdispls = sdispls, .sendtype = sendtype,
      .recv = recv, .recvcounts = recvcounts, .rdispls = rdispls, .recvtype = recvtype,
      .comm = comm)
ENTRY(GATHER, Gather, gather,
      P(const void *send, int sendcount, MPI_Datatype sendtype, void *recv, int recvcount,
        MPI_Datatype recvtype, int root, MPI_Comm comm),
      .send = send, .sendcount = sendcount, .sendtype = sendtype, .recv = recv,
      .recvcount = recvcount, .recvtype = recvtype, .root = root, .comm = comm)
ENTRY(GATHERV, Gatherv, gatherv,
      P(const void *send, int sendcount, MPI_Datatype sendtype, void *recv, const int recvcounts[],
        const int displs[], MPI_Datatype recvtype, int root, MPI_Comm comm),
      .send = send, .sendcount = sendcount, .sendtype = sendtype, .recv = recv,
      .recvcounts = recvcounts, .rdispls = displs, .recvtype = recvtype, .root = root, .comm = comm)
ENTRY(SCATTER, Scatter, scatter,
      P(const void *send, int sendcount, MPI_Datatype sendtype, void *recv, int recvcount,
        MPI_Datatype recvtype, int root, MPI_Comm comm),
      .send = send, .sendcount = sendcount, .sendtype = sendtype, .recv = recv,
      .recvcount = recvcount, .recvtype = recvtype, .root = root, .comm = comm)
ENTRY(SCATTERV, Scatterv, scatterv,
      P(const void *send, const int sendcounts[], const int displs[], MPI_Datatype sendtype,
        void *recv, int recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm),
      .send = send, .sendcounts = sendcounts, .sdispls = displs, .sendtype = sendtype, .recv = recv,
      .recvcount = recvcount, .recvtype = recvtype, .root = root, .comm = comm)
ENTRY(SCAN, Scan, scan,
      P(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm),
      .send = send, .recv = recv, .sendcount = count, .sendtype = type, .op = op, .comm = comm)
ENTRY(EXSCAN, Exscan, exscan,
      P(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm),
      .send = send, .recv = recv, .sendcount = count, .sendtype = type, .op = op, .comm = comm)
ENTRY(BARRIER, Barrier, barrier, P(MPI_Comm comm), .comm = comm)

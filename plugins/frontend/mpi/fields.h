/*
 * What each function takes, in MPI's order, as fields of struct tmpi_call: F(field) for each argument. With it entry.c,
 * fortran.c and fall.c declare the functions, fill a struct tmpi_call and empty it again.
 */
#ifndef TMPI_FIELDS_H
#define TMPI_FIELDS_H

#define FIELDS_ALLREDUCE(F) F(send), F(recv), F(sendcount), F(sendtype), F(op), F(comm)
#define FIELDS_REDUCE(F) F(send), F(recv), F(sendcount), F(sendtype), F(op), F(root), F(comm)
#define FIELDS_BCAST(F) F(recv), F(sendcount), F(sendtype), F(root), F(comm)
#define FIELDS_ALLGATHER(F) \
    F(send), F(sendcount), F(sendtype), F(recv), F(recvcount), F(recvtype), F(comm)
#define FIELDS_ALLGATHERV(F) \
    F(send), F(sendcount), F(sendtype), F(recv), F(recvcounts), F(rdispls), F(recvtype), F(comm)
#define FIELDS_REDUCE_SCATTER(F) F(send), F(recv), F(recvcounts), F(sendtype), F(op), F(comm)
#define FIELDS_REDUCE_SCATTER_BLOCK(F) F(send), F(recv), F(recvcount), F(sendtype), F(op), F(comm)
#define FIELDS_ALLTOALL(F) FIELDS_ALLGATHER(F)
#define FIELDS_ALLTOALLV(F) \
    F(send), F(sendcounts), F(sdispls), F(sendtype), F(recv), F(recvcounts), F(rdispls), \
        F(recvtype), F(comm)
#define FIELDS_GATHER(F) \
    F(send), F(sendcount), F(sendtype), F(recv), F(recvcount), F(recvtype), F(root), F(comm)
#define FIELDS_GATHERV(F) \
    F(send), F(sendcount), F(sendtype), F(recv), F(recvcounts), F(rdispls), F(recvtype), F(root), \
        F(comm)
#define FIELDS_SCATTER(F) FIELDS_GATHER(F)
#define FIELDS_SCATTERV(F) \
    F(send), F(sendcounts), F(sdispls), F(sendtype), F(recv), F(recvcount), F(recvtype), F(root), \
        F(comm)
#define FIELDS_SCAN(F) FIELDS_ALLREDUCE(F)
#define FIELDS_EXSCAN(F) FIELDS_ALLREDUCE(F)
#define FIELDS_BARRIER(F) F(comm)

#endif

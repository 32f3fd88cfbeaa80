/* The functions with the arguments that a struct tmpi_call *c has for them. Included several times by fall.c. */
CALL(ALLREDUCE, Allreduce, allreduce, c->send, c->recv, c->sendcount, c->sendtype, c->op, c->comm)
CALL(REDUCE, Reduce, reduce, c->send, c->recv, c->sendcount, c->sendtype, c->op, c->root, c->comm)
CALL(BCAST, Bcast, bcast, c->recv, c->sendcount, c->sendtype, c->root, c->comm)
CALL(ALLGATHER, Allgather, allgather, c->send, c->sendcount, c->sendtype, c->recv, c->recvcount,
     c->recvtype, c->comm)
CALL(ALLGATHERV, Allgatherv, allgatherv, c->send, c->sendcount, c->sendtype, c->recv, c->recvcounts,
     c->rdispls, c->recvtype, c->comm)
CALL(REDUCE_SCATTER, Reduce_scatter, reduce_scatter, c->send, c->recv, c->recvcounts, c->sendtype,
     c->op, c->comm)
CALL(REDUCE_SCATTER_BLOCK, Reduce_scatter_block, reduce_scatter_block, c->send, c->recv,
     c->recvcount, c->sendtype, c->op, c->comm)
CALL(ALLTOALL, Alltoall, alltoall, c->send, c->sendcount, c->sendtype, c->recv, c->recvcount,
     c->recvtype, c->comm)
CALL(ALLTOALLV, Alltoallv, alltoallv, c->send, c->sendcounts, c->sdispls, c->sendtype, c->recv,
     c->recvcounts, c->rdispls, c->recvtype, c->comm)
CALL(GATHER, Gather, gather, c->send, c->sendcount, c->sendtype, c->recv, c->recvcount, c->recvtype,
     c->root, c->comm)
CALL(GATHERV, Gatherv, gatherv, c->send, c->sendcount, c->sendtype, c->recv, c->recvcounts,
     c->rdispls, c->recvtype, c->root, c->comm)
CALL(SCATTER, Scatter, scatter, c->send, c->sendcount, c->sendtype, c->recv, c->recvcount,
     c->recvtype, c->root, c->comm)
CALL(SCATTERV, Scatterv, scatterv, c->send, c->sendcounts, c->sdispls, c->sendtype, c->recv,
     c->recvcount, c->recvtype, c->root, c->comm)
CALL(SCAN, Scan, scan, c->send, c->recv, c->sendcount, c->sendtype, c->op, c->comm)
CALL(EXSCAN, Exscan, exscan, c->send, c->recv, c->sendcount, c->sendtype, c->op, c->comm)
CALL(BARRIER, Barrier, barrier, c->comm)

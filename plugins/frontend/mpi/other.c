/*
 * Collectives that Thrum does not have, which are counted for the report and go to MPI; and MPI_Finalize, for the report of
 * programs that call no collective. Programs call them.
 */
#include "frontend.h"

#define BLOCKS \
    const void *send, int sendcount, MPI_Datatype sendtype, void *recv, int recvcount, \
        MPI_Datatype recvtype, MPI_Comm comm
#define ARGUMENTS_BLOCKS send, sendcount, sendtype, recv, recvcount, recvtype, comm
#define RECV_COUNTS \
    const void *send, int sendcount, MPI_Datatype sendtype, void *recv, const int recvcounts[], \
        const int rdispls[], MPI_Datatype recvtype, MPI_Comm comm
#define ARGUMENTS_RECV_COUNTS send, sendcount, sendtype, recv, recvcounts, rdispls, recvtype, comm
#define COUNTS \
    const void *send, const int sendcounts[], const int sdispls[], MPI_Datatype sendtype, \
        void *recv, const int recvcounts[], const int rdispls[], MPI_Datatype recvtype, \
        MPI_Comm comm
#define ARGUMENTS_COUNTS \
    send, sendcounts, sdispls, sendtype, recv, recvcounts, rdispls, recvtype, comm
#define TYPES \
    const void *send, const int sendcounts[], const int sdispls[], const MPI_Datatype sendtypes[], \
        void *recv, const int recvcounts[], const int rdispls[], const MPI_Datatype recvtypes[], \
        MPI_Comm comm
#define ARGUMENTS_TYPES \
    send, sendcounts, sdispls, sendtypes, recv, recvcounts, rdispls, recvtypes, comm
#define DISTANCES \
    const void *send, const int sendcounts[], const MPI_Aint sdispls[], \
        const MPI_Datatype sendtypes[], void *recv, const int recvcounts[], \
        const MPI_Aint rdispls[], const MPI_Datatype recvtypes[], MPI_Comm comm
#define ARGUMENTS_DISTANCES ARGUMENTS_TYPES

static void count(unsigned function, enum tmpi_mode mode)
{
    if (tmpi_ready() && tmpi_reporting)
        tmpi_report_count(function, mode, TMPI_NOT_SERVED);
}

#define X(Name, name, parameters) \
    int MPI_##Name(parameters) \
    { \
        count(TMPI_OTHER_##Name, TMPI_BLOCKING); \
        return PMPI_##Name(ARGUMENTS_##parameters); \
    } \
    int MPI_I##name(parameters, MPI_Request *request) \
    { \
        count(TMPI_OTHER_##Name, TMPI_NONBLOCKING); \
        return PMPI_I##name(ARGUMENTS_##parameters, request); \
    }
#include "other_rows.h"
#undef X

#ifdef TMPI_INIT
#define X(Name, name, parameters) \
    int TMPI_INIT(Name)(parameters, MPI_Info info, MPI_Request * request) \
    { \
        count(TMPI_OTHER_##Name, TMPI_PERSISTENT); \
        return TMPI_PINIT(Name)(ARGUMENTS_##parameters, info, request); \
    }
#include "other_rows.h"
#undef X
#endif

int MPI_Finalize(void)
{
    tmpi_report_init();
    if (tmpi_reporting)
        (void)
            tmpi_ready(); /* the report is printed while MPI finalizes, by all that have been ready */
    return PMPI_Finalize();
}

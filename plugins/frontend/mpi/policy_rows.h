/*
 * One interval for each function that Thrum may take: [ROW_TWO], [ROW_MORE], [ROW_CROWDED]; blocking, then nonblocking.
 * Measured with Open MPI 4.1.4 (pml ob1, vader with CMA) on two cores of an EPYC; ROW_MORE, which that machine cannot be,
 * holds what both others have in common. See take.c.
 */
[ROW_TWO] = {{[TMPI_ALLREDUCE] = {512, ANY},
              [TMPI_REDUCE] = {512, 4096},
              [TMPI_BCAST] = {512, 4096},
              [TMPI_ALLGATHER] = {512, 4096},
              [TMPI_ALLTOALL] = {512, 4096},
              [TMPI_REDUCE_SCATTER] = {32768, ANY},
              [TMPI_REDUCE_SCATTER_BLOCK] = {4096, ANY},
              [TMPI_SCAN] = {512, ANY}},
             {[TMPI_ALLREDUCE] = {64, ANY},
              [TMPI_REDUCE] = {262144, ANY},
              [TMPI_BCAST] = {4096, 32768},
              [TMPI_ALLGATHER] = {4096, ANY},
              [TMPI_ALLTOALL] = {512, 4096},
              [TMPI_REDUCE_SCATTER] = {4096, ANY},
              [TMPI_REDUCE_SCATTER_BLOCK] = {512, ANY},
              [TMPI_SCAN] = {512, ANY}}},
[ROW_MORE] = {{[TMPI_ALLREDUCE] = {512, ANY}}, {[TMPI_ALLREDUCE] = {512, ANY}}},
[ROW_CROWDED] = {{[TMPI_ALLREDUCE] = {512, ANY}}, {[TMPI_ALLREDUCE] = {512, ANY}}},

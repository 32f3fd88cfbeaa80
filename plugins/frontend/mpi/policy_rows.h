/* One interval for each function: [ROW_TWO], [ROW_MORE], [ROW_CROWDED]; blocking, then nonblocking. See take.c. */
[ROW_TWO] = {{[TMPI_ALLREDUCE] = {128, ANY}}, {[TMPI_ALLREDUCE] = {128, ANY}}},
[ROW_MORE] = {{[TMPI_ALLREDUCE] = {128, ANY}}, {[TMPI_ALLREDUCE] = {128, ANY}}},
[ROW_CROWDED] = {{[TMPI_ALLREDUCE] = {128, ANY}}, {[TMPI_ALLREDUCE] = {128, ANY}}},

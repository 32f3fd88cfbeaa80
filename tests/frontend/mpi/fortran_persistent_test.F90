! Persistent collectives as Fortran programs call them, which have MPI 4's names or Open MPI 4's: ALLREDUCE_INIT is the one
! that there is. Prints TAP from rank 0; see mpi-frontend.
program fortran_persistent_test
    implicit none
    include 'mpif.h'
    external :: ALLREDUCE_INIT
    integer, parameter :: n = 2000
    integer :: rank, ranks, error, i, round, request, values(n), sums(n), wrong, total
    call MPI_INIT(error)
    call MPI_COMM_RANK(MPI_COMM_WORLD, rank, error)
    call MPI_COMM_SIZE(MPI_COMM_WORLD, ranks, error)
    wrong = 0
    call ALLREDUCE_INIT(values, sums, n, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL, request, error)
    do round = 1, 3
        values = [(rank + round*i, i=1, n)]
        call MPI_START(request, error)
        call MPI_WAIT(request, MPI_STATUS_IGNORE, error)
        if (any(sums /= [(ranks*round*i + ranks*(ranks - 1)/2, i=1, n)])) wrong = wrong + 1
    end do
    call MPI_REQUEST_FREE(request, error)
    if (request /= MPI_REQUEST_NULL) wrong = wrong + 1
    call MPI_REDUCE(wrong, total, 1, MPI_INTEGER, MPI_SUM, 0, MPI_COMM_WORLD, error)
    if (rank == 0) print '(a,a)', trim(merge('not ok', 'ok    ', total > 0)), ' 1 - persistent, by Fortran'
    if (rank == 0) print '(a)', '1..1'
    call MPI_FINALIZE(error)
    if (rank == 0 .and. total > 0) error stop 1
end program

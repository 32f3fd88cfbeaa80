! Collectives as Fortran programs call them: by mpif.h's names through `use mpi`, then by mpi_f08; MPI_IN_PLACE,
! nonblocking calls, an operation of the program's own. Prints TAP from rank 0; see mpi-frontend.
module old_names
    use mpi
    implicit none
contains
    subroutine larger(a, b, n, type)
        integer :: n, type, i
        real(8) :: a(n), b(n)
        do i = 1, n
            b(i) = max(a(i), b(i))
        end do
    end subroutine

    integer function test_old_names() result(wrong)
        integer, parameter :: n = 2000
        integer :: rank, ranks, error, i, requests(2), statuses(MPI_STATUS_SIZE, 2), op, which, flag_rounds
        integer :: values(n), sums(n), value, status(MPI_STATUS_SIZE)
        integer, allocatable :: all(:)
        real(8) :: x(n), y(n)
        logical :: flag, yes, every
        complex :: z(3), zsum(3)
        wrong = 0
        call MPI_COMM_RANK(MPI_COMM_WORLD, rank, error)
        call MPI_COMM_SIZE(MPI_COMM_WORLD, ranks, error)
        allocate (all(ranks))
        do i = 1, 12
            call MPI_BARRIER(MPI_COMM_WORLD, error)
        end do
        values = [(rank + i, i=1, n)]
        call MPI_ALLREDUCE(values, sums, n, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, error)
        if (any(sums /= [(ranks*i + ranks*(ranks - 1)/2, i=1, n)])) wrong = wrong + 1
        call MPI_ALLREDUCE(MPI_IN_PLACE, values, n, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, error)
        if (any(values /= sums)) wrong = wrong + 1
        value = -1
        if (rank == ranks - 1) value = 42
        call MPI_BCAST(value, 1, MPI_INTEGER, ranks - 1, MPI_COMM_WORLD, error)
        if (value /= 42) wrong = wrong + 1
        call MPI_ALLGATHER(rank, 1, MPI_INTEGER, all, 1, MPI_INTEGER, MPI_COMM_WORLD, error)
        if (any(all /= [(i, i=0, ranks - 1)])) wrong = wrong + 1
        yes = rank == 0
        call MPI_ALLREDUCE(yes, every, 1, MPI_LOGICAL, MPI_LAND, MPI_COMM_WORLD, error)
        if (every .neqv. ranks == 1) wrong = wrong + 1
        call MPI_ALLREDUCE(yes, every, 1, MPI_LOGICAL, MPI_LOR, MPI_COMM_WORLD, error)
        if (.not. every) wrong = wrong + 1
        z = cmplx(rank, 1)
        call MPI_ALLREDUCE(z, zsum, 3, MPI_COMPLEX, MPI_SUM, MPI_COMM_WORLD, error)
        if (any(zsum /= cmplx(ranks*(ranks - 1)/2, ranks))) wrong = wrong + 1
        call MPI_OP_CREATE(larger, .true., op, error)
        x = [(real(mod(rank + i, ranks), 8), i=1, n)]
        call MPI_ALLREDUCE(x, y, n, MPI_DOUBLE_PRECISION, op, MPI_COMM_WORLD, error)
        if (any(y /= ranks - 1)) wrong = wrong + 1
        call MPI_OP_FREE(op, error)
        values = [(rank + i, i=1, n)]
        call MPI_IALLREDUCE(MPI_IN_PLACE, values, n, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, requests(1), error)
        call MPI_ISCAN(x, y, n, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD, requests(2), error)
        call MPI_WAITALL(2, requests, statuses, error)
        if (any(requests /= MPI_REQUEST_NULL) .or. any(values /= sums)) wrong = wrong + 1
        call MPI_IBARRIER(MPI_COMM_WORLD, requests(1), error)
        requests(2) = MPI_REQUEST_NULL
        call MPI_WAITANY(2, requests, which, status, error)
        if (which /= 1) wrong = wrong + 1
        call MPI_IBARRIER(MPI_COMM_WORLD, requests(1), error)
        flag = .false.
        flag_rounds = 0
        do while (.not. flag)
            call MPI_TEST(requests(1), flag, MPI_STATUS_IGNORE, error)
            flag_rounds = flag_rounds + 1
        end do
        if (requests(1) /= MPI_REQUEST_NULL) wrong = wrong + 1
    end function
end module

module new_names
    use mpi_f08
    implicit none
contains
    integer function test_new_names() result(wrong)
        integer, parameter :: n = 500
        integer :: rank, ranks, i, mine(n)
        real :: x(n), y(n)
        type(MPI_Request) :: requests(2)
        type(MPI_Status) :: status
        wrong = 0
        call MPI_Comm_rank(MPI_COMM_WORLD, rank)
        call MPI_Comm_size(MPI_COMM_WORLD, ranks)
        x = rank
        call MPI_Allreduce(x, y, n, MPI_REAL, MPI_MAX, MPI_COMM_WORLD)
        if (any(y /= ranks - 1)) wrong = wrong + 1
        call MPI_Reduce(x, y, n, MPI_REAL, MPI_SUM, 0, MPI_COMM_WORLD)
        if (rank == 0 .and. any(y /= ranks*(ranks - 1)/2)) wrong = wrong + 1
        mine = [(rank + i, i=1, n)]
        call MPI_Iallreduce(MPI_IN_PLACE, mine, n, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, requests(1))
        call MPI_Ibarrier(MPI_COMM_WORLD, requests(2))
        call MPI_Wait(requests(1), status)
        call MPI_Waitall(1, requests(2:2), MPI_STATUSES_IGNORE)
        if (any(mine /= [(ranks*i + ranks*(ranks - 1)/2, i=1, n)])) wrong = wrong + 1
        if (requests(1) /= MPI_REQUEST_NULL) wrong = wrong + 1
        do i = 1, 7
            wrong = wrong + completed(i)
        end do
    end function

    ! By each of the functions that complete requests; those with a LOGICAL take another way to C.
    integer function completed(how) result(wrong)
        integer, intent(in) :: how
        integer, parameter :: n = 500
        integer :: rank, one(n), two(n), which, done, indices(2), left
        type(MPI_Request) :: requests(2)
        type(MPI_Status) :: status, statuses(2)
        logical :: flag
        call MPI_Comm_rank(MPI_COMM_WORLD, rank)
        one = merge(how, -1, rank == 0)
        two = one
        call MPI_Ibcast(one, n, MPI_INTEGER, 0, MPI_COMM_WORLD, requests(1))
        call MPI_Ibcast(two, n, MPI_INTEGER, 0, MPI_COMM_WORLD, requests(2))
        flag = .false.
        wrong = 0
        left = 2
        select case (how)
        case (1)
            do while (.not. flag)
                call MPI_Test(requests(1), flag, status)
            end do
            call MPI_Wait(requests(2), MPI_STATUS_IGNORE)
        case (2)
            do while (.not. flag)
                call MPI_Testall(2, requests, flag, statuses)
            end do
        case (3)
            do while (left > 0)
                call MPI_Testany(2, requests, which, flag, status)
                if (flag) left = left - 1
                if (flag .and. (which < 1 .or. which > 2)) wrong = wrong + 1
            end do
        case (4)
            do while (left > 0)
                call MPI_Testsome(2, requests, done, indices, MPI_STATUSES_IGNORE)
                left = left - done
            end do
        case (5)
            do while (.not. flag)
                call MPI_Request_get_status(requests(1), flag, MPI_STATUS_IGNORE)
            end do
            call MPI_Waitall(2, requests, statuses)
        case (6)
            call MPI_Waitany(2, requests, which, MPI_STATUS_IGNORE)
            call MPI_Waitany(2, requests, which, status)
        case default
            do while (left > 0)
                call MPI_Waitsome(2, requests, done, indices, statuses)
                left = left - done
            end do
        end select
        if (any(one /= how) .or. any(two /= how)) wrong = wrong + 1
        if (requests(1) /= MPI_REQUEST_NULL .or. requests(2) /= MPI_REQUEST_NULL) wrong = wrong + 1
    end function
end module

program fortran_test
    use mpi
    use old_names, only: test_old_names
    use new_names, only: test_new_names
    implicit none
    integer :: rank, error, old, new, wrong(2), total(2)
    character(6) :: words(2)
    call MPI_INIT(error)
    call MPI_COMM_RANK(MPI_COMM_WORLD, rank, error)
    wrong(1) = test_old_names()
    wrong(2) = test_new_names()
    call MPI_ALLREDUCE(wrong, total, 2, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, error)
    words = merge('not ok', 'ok    ', total > 0)
    if (rank == 0) then
        print '(a,a)', trim(words(1)), ' 1 - mpif.h names'
        print '(a,a)', trim(words(2)), ' 2 - mpi_f08'
        print '(a)', '1..2'
    end if
    call MPI_FINALIZE(error)
    if (any(total > 0)) error stop 1
end program

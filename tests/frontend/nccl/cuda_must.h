/* What tests expect of CUDA calls. After cmocka.h, string.h and cuda_runtime.h. */
#ifndef TESTS_FRONTEND_NCCL_CUDA_MUST_H
#define TESTS_FRONTEND_NCCL_CUDA_MUST_H

#define CUDA_OK(call) assert_int_equal((call), cudaSuccess)
/* The CUDA call fails so, and the detail has the text in it. */
#define CUDA_FAILS(call, error, text) \
    do { \
        assert_int_equal((call), (error)); \
        assert_int_equal(cudaGetLastError(), (error)); \
        if (!strstr(thrumCudaErrorDetail(), (text))) \
            fail_msg("\"%s\" lacks \"%s\"", thrumCudaErrorDetail(), (text)); \
    } while (0)

#endif

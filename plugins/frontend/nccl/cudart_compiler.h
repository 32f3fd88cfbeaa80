/*
 * What nvcc's host code calls, before main (registration) and at each <<<...>>>. NVIDIA does not document it, but the host
 * side of every compiled program declares it; cudart_kernel.c has it.
 */
#ifndef FRONTEND_NCCL_CUDART_COMPILER_H
#define FRONTEND_NCCL_CUDART_COMPILER_H

#include "cuda_runtime_api.h"

#pragma GCC visibility push(default)

void **__cudaRegisterFatBinary(void *image);
void __cudaRegisterFatBinaryEnd(void **binary);
void __cudaUnregisterFatBinary(void **binary);
void __cudaRegisterFunction(void **binary, const char *stub, char *device_function,
                            const char *name, int thread_limit, void *thread, void *block,
                            dim3 *block_size, dim3 *grid_size, int *warp_size);
void __cudaRegisterVar(void **binary, char *shadow, char *device_address, const char *name,
                       int is_external, size_t bytes, int is_constant, int is_global);
void __cudaRegisterManagedVar(void **binary, void **pointer, char *device_address, const char *name,
                              int is_external, size_t bytes, int is_constant, int is_global);
char __cudaInitModule(void **binary);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream);
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *stub);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared_bytes, cudaStream_t stream);

#pragma GCC visibility pop

#endif

/* What the make-believe vendor's runtime has beside CUDA's calls: for its own plugin, and for native_test. */
#ifndef TESTS_FRONTEND_NCCL_ACME_H
#define TESTS_FRONTEND_NCCL_ACME_H

#include <stdatomic.h>
#include <stdbool.h>

#include <thrum/device_plugin.h>

#include "cuda_runtime_api.h"

#pragma GCC visibility push(default)

const struct thrum_device_ops *acme_device_ops(void);
/* How many streams the library has imported and not let go of. */
int acme_imports(void);
/* Work of the vendor's: what follows on the stream waits until the gate is open. */
cudaError_t acme_gate(cudaStream_t stream, _Atomic bool *open);
/* The stream says that it is being captured. */
void acme_capture(cudaStream_t stream, bool capturing);

#pragma GCC visibility pop

#endif

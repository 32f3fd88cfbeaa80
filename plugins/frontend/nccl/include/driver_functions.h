/* make_cudaExtent and its like: all in cuda_runtime_api.h. */
#ifndef DRIVER_FUNCTIONS_H
#define DRIVER_FUNCTIONS_H

#include "cuda_runtime_api.h"

#endif

/* Types of the CUDA runtime: all in cuda_runtime_api.h. */
#ifndef DRIVER_TYPES_H
#define DRIVER_TYPES_H

#include "cuda_runtime_api.h"

#endif

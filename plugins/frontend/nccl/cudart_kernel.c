/*
 * Kernels: there are none. Programs that nvcc compiled tell their functions and variables before main, which is accepted
 * and remembered, so that they start, and do all that needs no kernel; a launch is an error that names the kernel. Called
 * by nvcc's host code and by programs.
 */
#include "cudart_compiler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thrum/plugin.h>

#include "cudart.h"

/* A function or variable of device code. */
struct symbol {
    struct symbol *next; /* of the binary */
    const void *stub; /* the host's stand-in, which programs name it by */
    const char *name; /* of the program's, mangled */
    size_t bytes; /* of a variable */
    void *managed; /* a managed variable's memory: host code reads and writes it */
    bool is_variable;
    _Atomic bool told; /* once is enough in the log */
};

/* What one __cudaRegisterFatBinary began. Programs register from one thread at a time. */
struct binary {
    struct symbol *symbols;
};

static struct handle_set symbols = HANDLE_SET_INITIALIZER; /* by stub */

/* Calls' configurations between <<<...>>> and the stub that takes it: one, but arguments may launch too. */
#define MOST_NESTED 8
struct configuration {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
};
static _Thread_local struct {
    unsigned n;
    struct configuration at[MOST_NESTED];
} pushed;

/* ---- registration ---- */

void **__cudaRegisterFatBinary(void *image)
{
    (void)image; /* device code of some GPU */
    return (void **)calloc(1, sizeof(struct binary));
}

void __cudaRegisterFatBinaryEnd(void **binary)
{
    (void)binary;
}

void __cudaUnregisterFatBinary(void **handle)
{
    struct binary *binary = (struct binary *)handle;
    struct symbol *symbol;

    while (binary && (symbol = binary->symbols)) {
        binary->symbols = symbol->next;
        if (handle_set_find(&symbols, symbol->stub) == symbol)
            (void)handle_set_remove(&symbols, symbol->stub);
        free(symbol->managed);
        free(symbol);
    }
    free(binary);
}

/* Without memory the program goes on: what is not remembered is not known later. */
static struct symbol *enter(void **handle, const void *stub, const char *name)
{
    struct binary *binary = (struct binary *)handle;
    struct symbol *symbol = binary && stub ? calloc(1, sizeof *symbol) : NULL;

    if (!symbol)
        return NULL;
    symbol->stub = stub;
    symbol->name = name ? name : "?";
    symbol->next = binary->symbols;
    binary->symbols = symbol;
    if (!handle_set_find(&symbols, stub))
        (void)!handle_set_add(&symbols, stub, symbol);
    return symbol;
}

void __cudaRegisterFunction(void **binary, const char *stub, char *device_function,
                            const char *name, int thread_limit, void *thread, void *block,
                            dim3 *block_size, dim3 *grid_size, int *warp_size)
{
    (void)device_function, (void)thread_limit, (void)thread, (void)block, (void)block_size;
    (void)grid_size, (void)warp_size;
    (void)enter(binary, stub, name);
}

void __cudaRegisterVar(void **binary, char *shadow, char *device_address, const char *name,
                       int is_external, size_t bytes, int is_constant, int is_global)
{
    struct symbol *symbol = enter(binary, shadow, name);

    (void)device_address, (void)is_external, (void)is_constant, (void)is_global;
    if (!symbol)
        return;
    symbol->bytes = bytes;
    symbol->is_variable = true;
}

void __cudaRegisterManagedVar(void **binary, void **pointer, char *device_address, const char *name,
                              int is_external, size_t bytes, int is_constant, int is_global)
{
    struct symbol *symbol = enter(binary, pointer, name);

    (void)device_address, (void)is_external, (void)is_constant, (void)is_global;
    if (!symbol)
        return;
    symbol->bytes = bytes;
    symbol->is_variable = true;
    *pointer = symbol->managed = calloc(1, bytes ? bytes : 1);
}

char __cudaInitModule(void **binary)
{
    (void)binary;
    return 1;
}

/* ---- launches ---- */

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream)
{
    if (pushed.n == MOST_NESTED)
        return (unsigned)cudart_result(cudart_fail(cudaErrorInvalidConfiguration,
                                                   "launches nested in %d others", MOST_NESTED));
    pushed.at[pushed.n++] = (struct configuration){grid, block, shared_bytes, stream};
    return cudaSuccess;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream)
{
    const struct configuration *top;

    if (!pushed.n)
        return cudart_result(
            cudart_fail(cudaErrorMissingConfiguration, "a kernel was called without <<<...>>>"));
    top = &pushed.at[--pushed.n];
    *grid = top->grid;
    *block = top->block;
    *shared_bytes = top->shared_bytes;
    *(cudaStream_t *)stream = top->stream;
    return cudaSuccess;
}

/* C++'s; there in every C++ program. */
extern char *__cxa_demangle(const char *name, char *buffer, size_t *bytes, int *status)
    __attribute__((weak));

/* The kernel's name as its source has it, in `text`. */
static const char *name_of(const struct symbol *symbol, char *text, size_t bytes)
{
    int status = -1;
    char *plain = __cxa_demangle ? __cxa_demangle(symbol->name, NULL, NULL, &status) : NULL;

    snprintf(text, bytes, "%s", plain && !status ? plain : symbol->name);
    free(plain);
    return text;
}

static struct symbol *find_kernel(const void *stub)
{
    struct symbol *symbol = stub ? handle_set_find(&symbols, stub) : NULL;

    return symbol && !symbol->is_variable ? symbol : NULL;
}

static cudaError_t refuse(const char *function, const void *stub)
{
    struct symbol *symbol = find_kernel(stub);
    char name[256];

    if (!symbol)
        return cudart_result(cudart_fail(cudaErrorInvalidDeviceFunction,
                                         "%s: function=%p is no kernel of this program; and "
                                         "Thrum's devices execute no CUDA kernels",
                                         function, stub));
    name_of(symbol, name, sizeof name);
    if (!atomic_exchange(&symbol->told, true))
        thrum_plugin_log(THRUM_LOG_ERROR,
                         "%s: kernel %s: Thrum's devices execute no CUDA kernels; what they offer: "
                         "copies, fills, collectives, host functions",
                         function, name);
    return cudart_result(cudart_fail(cudaErrorNoKernelImageForDevice,
                                     "%s: kernel %s: Thrum's devices execute no CUDA kernels",
                                     function, name));
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                             size_t shared_bytes, cudaStream_t stream)
{
    (void)grid, (void)block, (void)arguments, (void)shared_bytes, (void)stream;
    return refuse("cudaLaunchKernel", function);
}

cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block,
                                        void **arguments, size_t shared_bytes, cudaStream_t stream)
{
    (void)grid, (void)block, (void)arguments, (void)shared_bytes, (void)stream;
    return refuse("cudaLaunchCooperativeKernel", function);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, const void *function,
                                void **arguments)
{
    (void)configuration, (void)arguments;
    return refuse("cudaLaunchKernelExC", function);
}

/* The handle of a kernel is its stub. */
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *stub)
{
    if (!kernel || !find_kernel(stub))
        return cudart_result(cudart_fail(cudaErrorInvalidDeviceFunction,
                                         "function=%p is no kernel of this program", stub));
    *kernel = (cudaKernel_t)(uintptr_t)stub;
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared_bytes, cudaStream_t stream)
{
    return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}

/* ---- what programs ask of kernels ---- */

/* Advice for launches that there will not be. */
static cudaError_t advise(const void *function)
{
    return find_kernel(function)
               ? cudaSuccess
               : cudart_result(cudart_fail(cudaErrorInvalidDeviceFunction,
                                           "function=%p is no kernel of this program", function));
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    (void)attribute, (void)value;
    return advise(function);
}

cudaError_t cudaFuncSetCacheConfig(const void *function, enum cudaFuncCache configuration)
{
    (void)configuration;
    return advise(function);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function)
{
    (void)attributes; /* of an image for the device, which there is none of */
    return refuse("cudaFuncGetAttributes", function);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int block_size, size_t shared_bytes)
{
    (void)blocks, (void)block_size, (void)shared_bytes;
    return refuse("cudaOccupancyMaxActiveBlocksPerMultiprocessor", function);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, const void *function, int block_size, size_t shared_bytes, unsigned flags)
{
    (void)flags;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, block_size,
                                                         shared_bytes);
}

/* ---- variables of device code ---- */

static cudaError_t refuse_variable(const char *function, const void *shadow)
{
    const struct symbol *symbol = shadow ? handle_set_find(&symbols, shadow) : NULL;

    return cudart_result(
        symbol && symbol->is_variable
            ? cudart_fail(cudaErrorInvalidSymbol,
                          "%s: variable %s is in device code, which Thrum's devices do not have",
                          function, symbol->name)
            : cudart_fail(cudaErrorInvalidSymbol, "%s: symbol=%p is no variable of this program",
                          function, shadow));
}

cudaError_t cudaGetSymbolSize(size_t *bytes, const void *shadow)
{
    const struct symbol *symbol = shadow ? handle_set_find(&symbols, shadow) : NULL;

    if (!symbol || !symbol->is_variable)
        return refuse_variable("cudaGetSymbolSize", shadow);
    if (!bytes)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "bytes=NULL"));
    *bytes = symbol->bytes;
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **pointer, const void *shadow)
{
    (void)pointer;
    return refuse_variable("cudaGetSymbolAddress", shadow);
}

cudaError_t cudaMemcpyToSymbol(const void *shadow, const void *src, size_t bytes, size_t offset,
                               enum cudaMemcpyKind kind)
{
    (void)src, (void)bytes, (void)offset, (void)kind;
    return refuse_variable("cudaMemcpyToSymbol", shadow);
}

cudaError_t cudaMemcpyToSymbolAsync(const void *shadow, const void *src, size_t bytes,
                                    size_t offset, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    (void)stream;
    return cudaMemcpyToSymbol(shadow, src, bytes, offset, kind);
}

cudaError_t cudaMemcpyFromSymbol(void *dst, const void *shadow, size_t bytes, size_t offset,
                                 enum cudaMemcpyKind kind)
{
    (void)dst, (void)bytes, (void)offset, (void)kind;
    return refuse_variable("cudaMemcpyFromSymbol", shadow);
}

cudaError_t cudaMemcpyFromSymbolAsync(void *dst, const void *shadow, size_t bytes, size_t offset,
                                      enum cudaMemcpyKind kind, cudaStream_t stream)
{
    (void)stream;
    return cudaMemcpyFromSymbol(dst, shadow, bytes, offset, kind);
}

cudaError_t cudaProfilerStart(void)
{
    return cudaSuccess;
}

cudaError_t cudaProfilerStop(void)
{
    return cudaSuccess;
}

/*
 * The handles of cudaIpcGetMemHandle. CUDA's have 64 bytes, Thrum's of an allocation more: so a process keeps Thrum's in
 * anonymous memory of its own, and CUDA's say where: process, descriptor, place. They go with the process. Called by
 * cudart_memory.c.
 */
#include "cudart.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define MAGIC 0x69706354u

struct place {
    uint32_t magic;
    int32_t pid, fd;
    uint32_t index;
    uint64_t
        key; /* random: at the front of the memory, so that another process's is not taken for it */
};
_Static_assert(sizeof(struct place) <= sizeof(cudaIpcMemHandle_t), "fits");

static struct {
    pthread_mutex_t lock; /* of the rest */
    pid_t pid; /* whose it is: not a forked child's */
    int fd;
    uint32_t n;
    uint64_t key;
} shelf = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static off_t offset_of(uint32_t index)
{
    return (off_t)(sizeof shelf.key + (size_t)index * sizeof(struct thrum_mem_handle));
}

static bool read_at(int fd, void *to, size_t bytes, off_t offset)
{
    return pread(fd, to, bytes, offset) == (ssize_t)bytes;
}

static bool write_at(int fd, const void *from, size_t bytes, off_t offset)
{
    return pwrite(fd, from, bytes, offset) == (ssize_t)bytes;
}

/* Under the lock. */
static bool open_shelf(void)
{
    if (shelf.fd >= 0 && shelf.pid == getpid())
        return true;
    if (shelf.fd >= 0)
        close(shelf.fd);
    shelf.n = 0;
    shelf.pid = getpid();
    shelf.fd = memfd_create("thrum-cuda-ipc", MFD_CLOEXEC);
    if (shelf.fd >= 0 && getrandom(&shelf.key, sizeof shelf.key, 0) == sizeof shelf.key &&
        write_at(shelf.fd, &shelf.key, sizeof shelf.key, 0))
        return true;
    if (shelf.fd >= 0)
        close(shelf.fd);
    shelf.fd = -1;
    return false;
}

/* Where the same handle lies, or the first free place. Under the lock. */
static uint32_t place_of(const struct thrum_mem_handle *handle)
{
    struct thrum_mem_handle there;

    for (uint32_t i = 0; i < shelf.n; i++)
        if (read_at(shelf.fd, &there, sizeof there, offset_of(i)) &&
            !memcmp(&there, handle, sizeof there))
            return i;
    return shelf.n;
}

cudaError_t cudart_ipc_publish(const struct thrum_mem_handle *handle, cudaIpcMemHandle_t *out)
{
    struct place place = {.magic = MAGIC};
    bool good;

    pthread_mutex_lock(&shelf.lock);
    good = open_shelf();
    if (good) {
        place.pid = shelf.pid;
        place.fd = shelf.fd;
        place.key = shelf.key;
        place.index = place_of(handle);
        if (place.index == shelf.n) {
            good = write_at(shelf.fd, handle, sizeof *handle, offset_of(shelf.n));
            shelf.n += good;
        }
    }
    pthread_mutex_unlock(&shelf.lock);
    if (!good)
        return cudart_fail(cudaErrorOperatingSystem, "no anonymous memory for handles");
    memset(out, 0, sizeof *out);
    memcpy(out->reserved, &place, sizeof place);
    return cudaSuccess;
}

cudaError_t cudart_ipc_find(const cudaIpcMemHandle_t *handle, struct thrum_mem_handle *out)
{
    struct place place;
    uint64_t key = 0;
    char path[64];
    bool good;
    int fd;

    memcpy(&place, handle->reserved, sizeof place);
    if (place.magic != MAGIC)
        return cudart_fail(cudaErrorInvalidValue, "handle is not one of cudaIpcGetMemHandle");
    snprintf(path, sizeof path, "/proc/%d/fd/%d", place.pid, place.fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cudart_fail(cudaErrorInvalidValue,
                           "handle: process %d is gone, or another user's (%m)", place.pid);
    good = read_at(fd, &key, sizeof key, 0) && key == place.key &&
           read_at(fd, out, sizeof *out, offset_of(place.index));
    close(fd);
    return good ? cudaSuccess
                : cudart_fail(cudaErrorInvalidValue, "handle: process %d is another one now",
                              place.pid);
}
